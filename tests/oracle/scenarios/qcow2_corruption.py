"""Damage inside a qcow2 image: what is noticed, when, and how it is told."""

from collections.abc import Callable
from typing import Any, Final

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.blkdebug import ask
from tests.oracle.scenarios.nbd_wire import BLOCK_STATUS, GO, SET_META, STRUCTURED, info, meta
from tests.oracle.session import Session

COPIED: Final = 1 << 63
COMPRESSED: Final = 1 << 62
#: Where qemu-img and a write of 128 KiB put things.
REFTABLE, REFBLOCK, L1, L2, DATA = (0x10000 * n for n in range(1, 6))
K64: Final = 65536

#: What is patched in, and the requests that meet it.
_READ, _WRITE, _NEW = ("read 0 512",), ("write 0 512",), ("write 1048576 65536",)
_TABLES: Final[dict[str, tuple[dict[int, int], tuple[str, ...]]]] = {
    "l1 unaligned, read": ({L1: COPIED | L2 | 512}, _READ),
    "l1 unaligned, write": ({L1: COPIED | L2 | 512}, _WRITE),
    "l1 reserved bits": ({L1: COPIED | L2 | 4}, (*_READ, *_WRITE)),
    "l1 reserved high bits": ({L1: COPIED | 1 << 61 | L2}, (*_READ, *_WRITE)),
    "l1 past the end": ({L1: COPIED | 0x40000000}, (*_READ, *_WRITE)),
    "l1 not copied": ({L1: L2}, (*_READ, *_WRITE, *_READ)),
    "l2 unaligned, read": ({L2: COPIED | DATA | 512}, (*_READ, *_READ, *_WRITE)),
    "l2 unaligned, write": ({L2: COPIED | DATA | 512}, (*_WRITE, *_READ)),
    "l2 unaligned, discard": ({L2: COPIED | DATA | 512}, ("discard 0 65536", *_NEW)),
    "l2 unaligned, zero": ({L2: COPIED | DATA | 512}, ("zero 0 65536", *_NEW)),
    "l2 unaligned, not copied": ({L2: DATA | 512}, (*_WRITE, *_NEW)),
    "second l2 unaligned": ({L2 + 8: COPIED | DATA | 512}, ("read 0 131072", *_READ)),
    "second l2 unaligned, write": ({L2 + 8: COPIED | DATA | 512}, ("write 0 131072", *_READ)),
    "l2 reserved bits": ({L2: COPIED | DATA | 2}, (*_READ, *_WRITE)),
    "l2 reserved high bits": ({L2: COPIED | 1 << 61 | DATA}, (*_READ, *_WRITE)),
    "l2 zero unaligned": ({L2: COPIED | DATA | 513}, (*_READ, *_WRITE)),
    "l2 zero unaligned, write": ({L2: COPIED | DATA | 513}, (*_WRITE,)),
    "l2 copied without cluster": ({L2: COPIED}, (*_READ, *_WRITE)),
    "l2 past the end": ({L2: COPIED | 0x40000000}, (*_READ, *_WRITE, *_READ)),
    "l2 far out": ({L2: COPIED | 0x00FFFFFFFFFE0000}, (*_READ, *_WRITE)),
    "l2 not copied": ({L2: DATA}, (*_READ, *_WRITE, *_READ)),
    "data on the header": ({L2 + 8: COPIED | COPIED}, ("write 65536 512",)),
    "data on the refcount table": ({L2: COPIED | REFTABLE}, _WRITE),
    "data on the refcount block": ({L2: COPIED | REFBLOCK}, _WRITE),
    "data on the l1": ({L2: COPIED | L1}, _WRITE),
    "data on the l2": ({L2: COPIED | L2}, _WRITE),
    "data on the l2, long write": ({L2: COPIED | L2, L2 + 8: COPIED | DATA}, ("write 0 131072",)),
    "zero cluster on the l2": ({L2: COPIED | L2 | 1}, (*_READ, *_WRITE)),
    "compressed past the end": ({L2: COMPRESSED | 0x40000000}, (*_READ, *_WRITE)),
    "compressed far out": ({L2: COMPRESSED | (1 << 54) - 1}, (*_READ, *_WRITE)),
    "compressed garbage": ({L2: COMPRESSED | DATA}, (*_READ, *_WRITE, "discard 0 65536")),
    "compressed and copied": ({L2: COPIED | COMPRESSED | DATA}, (*_READ, *_WRITE)),
    "refblock unaligned": ({REFTABLE: REFBLOCK | 512}, (*_READ, *_NEW, *_READ)),
    "refblock past the end": ({REFTABLE: 0x40000000}, (*_NEW, "flush")),
    "refblock on the l1": ({REFTABLE: L1}, (*_NEW, "flush")),
    "refblock on the refcount table": ({REFTABLE: REFTABLE}, (*_NEW, "flush")),
    "refcounts 0": ({REFBLOCK: 0, REFBLOCK + 8: 0}, (*_NEW, "flush")),
    "refcount of the refcount table 0": ({REFBLOCK: 0x0001000000010001}, (*_NEW,)),
    "refcount of the block 0": ({REFBLOCK: 0x0001000100000001}, (*_NEW,)),
    "refcount of the l1 0": ({REFBLOCK: 0x0001000100010000}, (*_NEW,)),
    "refcount of the l2 0": ({REFBLOCK + 8: 0x0000000100010000}, (*_NEW,)),
    "refcount of data 0": ({REFBLOCK + 8: 0x0001000000010000}, (*_NEW, *_READ)),
    "refcount of data 2, discard": (
        {REFBLOCK + 8: 0x0001000200010000},
        ("discard 0 65536", "flush"),
    ),
}

#: What QEMU notices later or in other words: only what becomes of the image is compared.
_EARLIER: Final[dict[str, tuple[dict[int, int], tuple[str, ...]]]] = {
    "l1 on itself": ({L1: COPIED | L1}, (*_READ, *_NEW)),
    "l1 on a refcount block": ({L1: COPIED | REFBLOCK}, (*_NEW,)),
    "l1 on the refcount table": ({L1: COPIED | REFTABLE}, (*_NEW,)),
    "refblock missing": ({REFTABLE: 0}, (*_NEW, "flush")),
    "refblock on the l2": ({REFTABLE: L2}, (*_NEW, "flush")),
    "refblock on the header": ({REFTABLE: 1}, (*_NEW, "flush")),
    "refcount of data 0, discard": (
        {REFBLOCK + 8: 0x0001000000010000},
        ("discard 0 65536", "flush"),
    ),
}


def patch(d: Session, words: dict[int, int]) -> None:
    with (d.dir / "a.qcow2").open("r+b") as file:
        for offset, word in words.items():
            file.seek(offset)
            file.write(word.to_bytes(8, "big"))


def tell_features(d: Session) -> None:
    """Write down which incompatible features are in the header of the image."""
    features = (d.dir / "a.qcow2").read_bytes()[72:80].hex()
    d.transcript.add(f"# incompatible features: {features}")


def met(d: Session, words: dict[int, int], requests: tuple[str, ...], **options: Any) -> None:
    """Patch an image, send requests, see what is in its header then."""
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "64M")
    d.tool("qemu-io", "-c", "write 0 128k", "a.qcow2")
    patch(d, words)
    run(d, requests, **options)


def run(d: Session, requests: tuple[str, ...], **options: Any) -> None:
    file = {"driver": "file", "filename": d.path("a.qcow2"), "discard": "unmap"}
    options = {"discard": "unmap"} | options
    writable = not options.get("read_only")
    if d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file, **options) is None:
        return
    given = {"id": "e", "type": "nbd", "node_name": "q", "name": "x", "writable": writable}
    d.qmp("block-export-add", **given)
    ask(d, "x", *requests)
    d.qmp("query-jobs")  # all events have come before its reply
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("blockdev-del", node_name="q")
    tell_features(d)


@scenario
def qcow2_damaged_tables(d: Session) -> None:
    d.nbd_server()
    for what, (words, requests) in _TABLES.items():
        d.transcript.add(f"# {what}")
        met(d, words, requests)


@scenario
def qcow2_damage_noticed_when_it_would_spread(d: Session) -> None:
    d.nbd_server()
    for what, (words, requests) in _EARLIER.items():
        before = len(d.transcript.entries)
        met(d, words, requests)
        end = d.transcript.entries[-1].text
        del d.transcript.entries[before:]
        d.transcript.add(f"# {what}: in the end {end}")


@scenario
def qcow2_damaged_tables_read_only(d: Session) -> None:
    d.nbd_server()
    for what in ("l1 unaligned, read", "l2 unaligned, read", "l2 zero unaligned", "l2 far out"):
        d.transcript.add(f"# {what}")
        met(d, _TABLES[what][0], (*_READ, *_READ, "read 65536 512"), read_only=True)


@scenario
def qcow2_overlaps_that_are_looked_for(d: Session) -> None:
    d.nbd_server()
    on = {"main-header": 0, "refcount-table": REFTABLE, "refcount-block": REFBLOCK}
    on |= {"active-l1": L1, "active-l2": L2}
    for kind, offset in on.items():
        for check in ("none", "constant", "cached", "all", {"template": "none", kind: True}):
            d.transcript.add(f"# {kind} {check}")
            words = {L2: COPIED | offset} if offset else {L2: COPIED | COMPRESSED}
            met(d, words, _WRITE, overlap_check=check)


@scenario
def qcow2_marked_corrupt(d: Session) -> None:
    d.nbd_server()
    met(d, {72: 2}, _READ)
    met(d, {72: 2}, (*_READ, "read 65536 512"), read_only=True)
    met(d, {72: 2, L2: COPIED | DATA | 512}, (*_READ, *_READ), read_only=True)
    met(d, {72: 3}, _READ)
    met(d, {72: 1}, (*_READ, *_WRITE))


@scenario
def qcow2_damaged_snapshots(d: Session) -> None:
    d.nbd_server()
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "64M")
    d.tool("qemu-io", "-c", "write 0 128k", "a.qcow2")
    d.tool("qemu-img", "snapshot", "-c", "s", "a.qcow2")
    whole = (d.dir / "a.qcow2").read_bytes()
    table = int.from_bytes(whole[64:72], "big")
    l1 = int.from_bytes(whole[table : table + 8], "big")
    new = int.from_bytes(whole[L1 : L1 + 8], "big") & 0xFFFFFFFFFE00
    cases = {
        "table unaligned": {64: table + 512},
        "table past the end": {64: 1 << 40},
        "table far out": {64: (1 << 63) - 65536},
        "many": {60: (0xFFFFFFFF << 32) | table >> 32, 64: table},
        "two": {60: (2 << 32) | table >> 32, 64: table},
        "l1 unaligned": {table: l1 + 512},
        "l1 large": {table + 8: 0xFFFFFFFF << 32 | 0x10001},
        "extra data large": {table + 32: 0xFFFFFFFF << 32},
        "extra data larger than allowed": {table + 32: 1025 << 32},
        "data on the table": {L1: COPIED | new, new: COPIED | table},
        "data on the l1 of the snapshot": {L1: COPIED | new, new: COPIED | l1},
    }
    for what, words in cases.items():
        d.transcript.add(f"# {what}")
        (d.dir / "a.qcow2").write_bytes(whole)
        if words.get(60):
            patch(d, {64: table})
            with (d.dir / "a.qcow2").open("r+b") as file:
                file.seek(60)
                file.write((words[60] >> 32).to_bytes(4, "big"))
        else:
            patch(d, words)
        # The table has the time in it, which is not for comparison.
        run(d, ("read 65536 512", "write 0 65536", "flush"))


@scenario
def qcow2_overlaps_with_l2_tables_of_snapshots(d: Session) -> None:
    d.nbd_server()
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "64M")
    d.tool("qemu-io", "-c", "write 0 128k", "a.qcow2")
    d.tool("qemu-img", "snapshot", "-c", "s", "a.qcow2")
    d.tool("qemu-io", "-c", "write 0 64k", "a.qcow2")  # the table at L2 is the snapshot's now
    whole = (d.dir / "a.qcow2").read_bytes()
    new = int.from_bytes(whole[L1 : L1 + 8], "big") & 0xFFFFFFFFFE00
    counts = int.from_bytes(whole[REFBLOCK + 8 : REFBLOCK + 16], "big")
    cases = {
        "data on the table": ({new + 8: COPIED | L2}, ("write 65536 512",)),
        "the table is free": ({REFBLOCK + 8: counts & 0xFFFFFFFFFFFF}, _NEW),
    }
    for what, (words, requests) in cases.items():
        for check in ("none", "cached", "all", {"template": "none", "inactive-l2": True}):
            d.transcript.add(f"# {what}, {check}")
            (d.dir / "a.qcow2").write_bytes(whole)
            patch(d, words)
            run(d, requests, overlap_check=check)


@scenario
def qcow2_overlap_check_follows_snapshots_and_reopening(d: Session) -> None:
    """A table of a snapshot that was deleted is a place like any other."""
    d.nbd_server()
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "64M")
    d.tool("qemu-io", "-c", "write 0 128k", "a.qcow2")
    file = {"driver": "file", "filename": d.path("a.qcow2"), "node-name": "f"}
    options = {"driver": "qcow2", "node-name": "q", "file": file, "overlap-check": "all"}
    d.qmp("blockdev-add", **options)
    d.qmp("block-export-add", id="e", type="nbd", node_name="q", name="x", writable=True)
    for check in ("none", "all"):
        for name in ("s", "t"):
            d.qmp("blockdev-snapshot-internal-sync", device="q", name=name)
            ask(d, "x", "write 0 65536", "write 65536 65536")
        d.qmp("blockdev-snapshot-delete-internal-sync", device="q", name="s")
        ask(d, "x", *(f"write {start} 65536" for start in range(0, 20 * K64, K64)), "flush")
        again = options | {"file": "f", "overlap-check": check}
        d.qmp("blockdev-reopen", options=[again])
        d.qmp("blockdev-snapshot-delete-internal-sync", device="q", name="t")
        ask(d, "x", *(f"write {start} 65536" for start in range(0, 40 * K64, K64)), "flush")
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("blockdev-del", node_name="q")
    d.tool("qemu-img", "check", "-q", "a.qcow2")


@scenario
def qcow2_damaged_subclusters(d: Session) -> None:
    d.nbd_server()
    cases = {
        "zero and data": {L2 + 8: 0x100000001},
        "data without cluster": {L2: 0, L2 + 8: 1},
        "unaligned": {L2: COPIED | DATA | 512},
        "bit of old zero clusters": {L2: COPIED | DATA | 1},
        "compressed with bitmap": {L2: COMPRESSED | DATA, L2 + 8: 1},
    }
    for what, words in cases.items():
        for requests in (_READ, _WRITE, ("write 2048 65536",), ("discard 0 65536", "zero 0 2048")):
            d.transcript.add(f"# {what}")
            options = ("-o", "extended_l2=on")
            d.tool("qemu-img", "create", "-q", "-f", "qcow2", *options, "a.qcow2", "64M")
            d.tool("qemu-io", "-c", "write 0 128k", "a.qcow2")
            patch(d, words)
            run(d, requests)


@scenario
def qcow2_beyond_repair_becomes_writable_beside_another(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "b.qcow2", "64M")
    d.tool("qemu-img", "bitmap", "--add", "b.qcow2", "bitmap")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "a.qcow2", "64M")
    d.tool("qemu-io", "-c", "write 0 128k", "a.qcow2")
    patch(d, {72: 1, L2: COPIED | REFTABLE})  # dirty, and data where its refcounts are
    given = []
    for name in "ab":
        file = {"driver": "file", "filename": d.path(f"{name}.qcow2")}
        given.append({"driver": "qcow2", "node-name": name, "file": file})
        d.qmp("blockdev-add", **given[-1], read_only=True)
    d.qmp("blockdev-reopen", options=given[::-1])  # the last one is finished first
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="b", name="x", writable=True)
    ask(d, "x", "write 0 512")
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("blockdev-del", node_name="b")
    d.tool("sh", "-c", "qemu-img info b.qcow2 | grep -A4 bitmaps:")


@scenario
def qcow2_bitmap_directory_on_the_l1_table(d: Session) -> None:
    """It is met as the image is opened, when the bitmaps are marked in use."""
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "64M")
    d.tool("qemu-img", "bitmap", "--add", "a.qcow2", "bitmap")
    whole = (d.dir / "a.qcow2").read_bytes()
    extension = whole.index(0x2385287500000018.to_bytes(8, "big")) + 8
    directory = int.from_bytes(whole[extension + 16 : extension + 24], "big")
    entry = [int.from_bytes(whole[directory + n : directory + n + 8], "big") for n in (0, 8)]
    in_use = 1
    patch(d, {extension + 16: L1, L1: entry[0], L1 + 8: entry[1] & ~in_use})
    for word in range(16, 32, 8):
        patch(d, {L1 + word: int.from_bytes(whole[directory + word :][:8], "big")})
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    for read_only in (True, False, False):
        d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file, read_only=read_only)
        if read_only:
            d.qmp("blockdev-del", node_name="q")
        features = (d.dir / "a.qcow2").read_bytes()[72:96].hex()
        d.transcript.add(f"# features: {features}")


def _ask_status(d: Session) -> None:
    client = d.nbd(None).flags()
    client.option(STRUCTURED)
    client.option(SET_META, meta("x", "base:allocation"))
    client.option(GO, info("x"))
    client.request(BLOCK_STATUS, 0, 65536)
    client.close()


@scenario
def qcow2_damage_is_marked_by_whoever_meets_it(d: Session) -> None:
    """Not only by reads and writes, and at once: the program may be killed."""
    cases: dict[str, tuple[dict[int, int], Callable[[], object]]] = {
        "status": ({L2: COPIED | DATA | 512}, lambda: _ask_status(d)),
        "snapshot": (
            {L1: COPIED | L2 | 512},
            lambda: d.qmp("blockdev-snapshot-internal-sync", device="q", name="s"),
        ),
    }
    d.nbd_server()
    for what, (words, meet) in cases.items():
        d.transcript.add(f"# {what}")
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "64M")
        d.tool("qemu-io", "-c", "write 0 128k", "a.qcow2")
        patch(d, words)
        file = {"driver": "file", "filename": d.path("a.qcow2")}
        d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
        given = {"id": "e", "type": "nbd", "node_name": "q", "name": "x", "writable": True}
        d.qmp("block-export-add", **given)
        meet()
        d.qmp("query-jobs")  # all events have come before its reply
        # The dirty bit, too, is there where we had begun with a snapshot.
        corrupt = bool((d.dir / "a.qcow2").read_bytes()[79] & 2)
        d.transcript.add(f"# marked as corrupt: {corrupt}")
        ask(d, "x", *_READ)
        d.qmp("block-export-del", id="e")
        d.event("BLOCK_EXPORT_DELETED")
        d.qmp("blockdev-del", node_name="q")
