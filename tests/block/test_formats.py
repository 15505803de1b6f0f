import pytest

from qmpfleece.block.formats import probe


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"", "raw"),
        (bytes(512), "raw"),
        (b"QFI\xfb\0\0\0\2", "qcow2"),
        (b"QFI\xfb\0\0\0\3", "qcow2"),
        (b"QFI\xfb\0\0\0\1", "qcow"),
        (b"QFI\xfb", "raw"),
        (b"LUKS\xba\xbe\0\1", "luks"),
        (b"# Disk DescriptorFile\nversion=1\n", "vmdk"),
        (b"# Disk DescriptorFile\nversion=1", "raw"),
        (b"#!/bin/sh\nversion=1\n", "vmdk"),
        (bytes(64) + b"\x7f\x10\xda\xbe", "vdi"),
        (bytes(508) + b"\x7f\x10\xda\xbe", "raw"),
    ],
)
def test_formats_are_told_by_their_first_bytes(start, name):
    assert probe(start) == name
    assert probe(memoryview(start.ljust(4096, b"\0"))) == name


def test_what_follows_the_first_sector_does_not_count():
    comment = b"#".ljust(511, b"x") + b"\n"
    assert probe(comment[:480] + b"\nversion=1\n") == "vmdk"
    assert probe(comment + b"version=1\n") == "raw"
