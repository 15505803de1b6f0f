"""The format of an image by its first bytes.

Formats that we have no driver for are known as well: an image in one of them is not raw.

Source: QEMU's behaviour, observed on qemu-system-x86_64 7.2.
"""

from collections.abc import Callable
from typing import Final

#: Bytes of an image that tell its format.
PROBED: Final = 512

_Check = Callable[[bytes], bool]


def probe(start: bytes | memoryview) -> str:
    """Return the name of the format's driver, ``raw`` if it is none that is known.

    Args:
        start: The first ``PROBED`` bytes; what is missing counts as zeroes.
    """
    head = bytes(start[:PROBED]).ljust(PROBED, b"\0")
    for magic, name, check in _MAGICS:
        if head.startswith(magic) and check(head):
            return name
    return "raw"


def _always(_: bytes) -> bool:
    return True


def _number(head: bytes, offset: int) -> int:
    return int.from_bytes(head[offset : offset + 4], "little")


def _describes_vmware_disk(head: bytes) -> bool:
    """Tell whether what follows comments and lines of spaces is a version."""
    *lines, _ = head.split(b"\n")
    for line in lines:
        if line.startswith(b"#"):
            continue
        text = line.removesuffix(b"\r")
        if not line.startswith(b" ") or text.strip(b" "):
            return text in {b"version=1", b"version=2", b"version=3"}
    return False


def _is_bochs(head: bytes) -> bool:
    kind = head[32:40], head[48:56]
    return kind == (b"Redolog\0", b"Growing\0") and _number(head, 64) in {0x10000, 0x20000}


_CLOOP: Final = (
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"
)

#: What an image begins with, its format, and what must hold besides.
_MAGICS: Final[tuple[tuple[bytes, str, _Check], ...]] = (
    (b"QFI\xfb\0\0\0\1", "qcow", _always),
    (b"QFI\xfb", "qcow2", lambda head: head[4:8] != bytes(4)),
    (b"QED\0", "qed", _always),
    (b"LUKS\xba\xbe\0\1", "luks", _always),
    (b"conectix", "vpc", _always),
    (b"vhdxfile", "vhdx", _always),
    (b"KDMV", "vmdk", _always),
    (b"COWD", "vmdk", _always),
    (b"", "vmdk", _describes_vmware_disk),
    (_CLOOP, "cloop", _always),
    (b"WithoutFreeSpace", "parallels", lambda head: _number(head, 16) == 2),
    (b"WithouFreSpacExt", "parallels", lambda head: _number(head, 16) == 2),
    (b"Bochs Virtual HD Image\0", "bochs", _is_bochs),
    (b"", "vdi", lambda head: _number(head, 64) == 0xBEDA107F),
)
