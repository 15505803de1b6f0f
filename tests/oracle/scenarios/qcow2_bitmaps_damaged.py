"""Images whose directory, header extension or table of bitmaps says what can't be."""

import signal
from collections.abc import Callable, Iterable

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.qcow2_bitmaps import (
    close,
    directory,
    image,
    opened,
    seen,
    spoil,
    stored,
)
from tests.oracle.session import Session

#: What a directory entry has where, and what of it is refused.
_ENTRY = (
    ("table offset 0", 0, bytes(8)),
    ("table unaligned", 6, b"\2\0"),
    ("table empty", 8, bytes(4)),
    ("table huge", 8, b"\xff\xff\xff\xff"),
    ("table too small", 8, b"\0\0\0\1"),
    ("unknown flag", 15, b"\x09"),
    ("extra data is compatible", 15, b"\4"),
    ("unknown type", 16, b"\2"),
    ("granularity 8", 17, b"\x08"),
    ("granularity 32", 17, b"\x20"),
    ("granularity 31", 17, b"\x1f"),
    ("no name", 18, b"\0\0"),
    ("long name", 18, b"\xff\xff"),
    ("extra data", 20, b"\0\0\0\1"),
    ("table past the end", 3, b"\1"),
)


def _spoil_each(
    d: Session, damages: Iterable[tuple[str, int, bytes]], place: Callable[[Session], int]
) -> None:
    """Open an image with two bitmaps after each damage, given as what, where from place, data."""
    image(d)
    for name in ("b", "c"):
        d.tool("qemu-img", "bitmap", "--add", "a.qcow2", name)
    whole = (d.dir / "a.qcow2").read_bytes()
    for what, at, data in damages:
        (d.dir / "a.qcow2").write_bytes(whole)
        d.transcript.add(f"# {what}")
        spoil(d, place(d) + at, data)
        opened(d, read_only=True)
        seen(d)
        close(d)
        opened(d)
        close(d)


def _extension(d: Session) -> int:
    return (d.dir / "a.qcow2").read_bytes().index(bytes.fromhex("23852875"))


@scenario
def qcow2_bitmap_directory_is_damaged(d: Session) -> None:
    _spoil_each(d, _ENTRY, directory)


#: The same of the header extension.
_EXTENSION = (
    ("length", 7, b"\x10"),
    ("no bitmaps", 8, bytes(4)),
    ("one bitmap", 11, b"\1"),
    ("three bitmaps", 11, b"\3"),
    ("too many bitmaps", 8, b"\1"),
    ("reserved field", 15, b"\1"),
    ("directory shorter", 23, b"\x20"),
    ("directory longer", 23, b"\x80"),
    ("directory huge", 19, b"\xff"),
    ("directory empty", 16, bytes(8)),
    ("directory unaligned", 30, b"\2"),
    ("directory past the end", 26, b"\1"),
)


@scenario
def qcow2_bitmaps_extension_is_damaged(d: Session) -> None:
    _spoil_each(d, _EXTENSION, _extension)


#: Where the second entry of a directory begins, and the name in an entry.
_SECOND, _NAME, _FLAGS = 32, 24, 15


@scenario
def qcow2_bitmaps_of_the_same_name(d: Session) -> None:
    for flags in (b"\2\2", b"\3\2", b"\2\3", b"\3\3"):
        d.transcript.add(f"# flags {flags.hex()}")
        image(d)
        for name in ("b", "c"):
            d.tool("qemu-img", "bitmap", "--add", "a.qcow2", name)
        start = directory(d)
        spoil(d, start + _SECOND + _NAME, b"b")
        spoil(d, start + _FLAGS, flags[:1])
        spoil(d, start + _SECOND + _FLAGS, flags[1:])
        for read_only in (True, False):
            opened(d, read_only=read_only)
            seen(d)
            close(d)
            stored(d)


def _that_cannot_be_written(d: Session, second: bytes) -> None:
    """Open an image with two bitmaps, the first of them in use, that no write reaches."""
    image(d)
    for name in ("b", "c"):
        d.tool("qemu-img", "bitmap", "--add", "a.qcow2", name)
    start = directory(d)
    spoil(d, start + _FLAGS, b"\3")
    spoil(d, start + _SECOND + _FLAGS, second)
    memory = d.memory_file(1 << 20)
    with open(memory, "r+b") as file:
        file.write((d.dir / "a.qcow2").read_bytes())
    d.seal()
    file = {"driver": "file", "filename": memory, "locking": "off"}
    d.qmp("blockdev-add", driver="qcow2", node_name="a", file=file)
    seen(d)
    close(d)


@scenario
def qcow2_directory_of_bitmaps_in_use_is_left_as_it_is(d: Session) -> None:
    _that_cannot_be_written(d, b"\3")


@scenario
def qcow2_directory_cannot_be_written_when_a_bitmap_is_taken_into_use(d: Session) -> None:
    _that_cannot_be_written(d, b"\2")


@scenario
def qcow2_bitmap_table_is_damaged(d: Session) -> None:
    image(d, "-o", "cluster_size=512")
    d.tool("qemu-img", "bitmap", "--add", "-g", "512", "a.qcow2", "b")
    d.tool("qemu-io", "-c", "write 0 4M", "a.qcow2")
    whole = (d.dir / "a.qcow2").read_bytes()
    table = int.from_bytes(whole[directory(d) :][:8], "big")
    entries = {"reserved": 2, "ones": 1, "unaligned": 0x8100, "both": 0x8001, "end": 1 << 50}
    for what, word in entries.items():
        (d.dir / "a.qcow2").write_bytes(whole)
        d.transcript.add(f"# {what}")
        spoil(d, table, word.to_bytes(8, "big"))
        opened(d)
        seen(d, "b")
        d.qmp("block-dirty-bitmap-remove", node="a", name="b")
        stored(d)
        close(d)


@scenario
def qcow2_bitmap_is_removed_and_its_clusters_are_free_after_a_flush(d: Session) -> None:
    """Also where nothing else was written before the daemon dies."""
    image(d)
    d.tool("qemu-img", "bitmap", "--add", "a.qcow2", "b")
    opened(d)
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="a", name="e", writable=True)
    d.qmp("block-dirty-bitmap-remove", node="a", name="b")
    d.io("e", "flush")
    d.kill(signal.SIGKILL)
    d.tool("qemu-img", "check", "a.qcow2")
