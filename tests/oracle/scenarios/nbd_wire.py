"""Requests of NBD clients on the wire, well-formed and not. Numbers are those of doc/proto.md."""

import struct

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.nodes import null
from tests.oracle.session import Session

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED = 1, 2, 3, 5, 6, 7, 8
LIST_META, SET_META = 9, 10
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, BLOCK_STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16


def name_of(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">I", len(data)) + data


def info(name: str, *requests: int) -> bytes:
    words = [struct.pack(">H", request) for request in requests]
    return name_of(name) + struct.pack(">H", len(requests)) + b"".join(words)


def meta(name: str, *queries: str) -> bytes:
    words = [name_of(query) for query in queries]
    return name_of(name) + struct.pack(">I", len(queries)) + b"".join(words)


def serve(d: Session, *, writable: bool = True) -> None:
    """Export 1 MiB with data at 0 and at 512 KiB as ``e``."""
    name = d.file("disk.raw", 1 << 20, (0x11, 0, 4096), (0x12, 512 << 10, 4096))
    d.qmp("blockdev-add", driver="file", node_name="f", filename=name, discard="unmap")
    d.nbd_server()
    d.qmp("block-dirty-bitmap-add", node="f", name="b", disabled=True)
    d.qmp(
        "block-export-add",
        type="nbd",
        id="e",
        node_name="f",
        name="e",
        description="the disk",
        writable=writable,
        bitmaps=["b"],
        allocation_depth=True,
    )


@scenario
def wire_simple_replies(d: Session) -> None:
    serve(d)
    client = d.nbd(None)
    client.go("e", structured=False)
    client.request(READ, 0, 16, simple_data=16)
    client.request(READ, 0, 16, flags=DF, simple_data=16)
    client.request(WRITE, 8, 4, data=b"abcd")
    client.request(READ, 4, 12, simple_data=12)
    client.request(FLUSH)
    client.request(TRIM, 65536, 65536)
    client.request(ZEROES, 0, 4096)
    client.request(BLOCK_STATUS, 0, 4096)
    client.request(READ, (1 << 20) - 8, 16)
    client.request(CACHE, 0, 4096)
    client.request(DISC)
    client.end()


@scenario
def wire_structured_reads(d: Session) -> None:
    serve(d)
    client = d.nbd("e")
    client.request(READ, 0, 16)
    client.request(READ, 0, 1 << 20)
    client.request(READ, 0, 1 << 20, flags=DF)
    client.request(READ, 4000, 200)
    client.request(READ, 8192, 4096)
    client.request(READ, 1 << 19, 1 << 19)
    client.request(READ, 0, 0)
    client.request(READ, (1 << 20) - 1, 1)
    client.request(READ, 1 << 20, 0)
    client.request(READ, 1 << 20, 1)
    client.request(READ, (1 << 64) - 1, 2)
    client.request(READ, 1 << 63, 16)


@scenario
def wire_reads_that_flush(d: Session) -> None:
    image = {"driver": "file", "filename": d.file("disk.raw", 1 << 20, (0x11, 0, 4096))}
    rules = [{"event": "none", "iotype": "flush", "errno": 28}]
    d.qmp("blockdev-add", driver="blkdebug", node_name="b", image=image, inject_error=rules)
    d.nbd_server()
    d.qmp("nbd-server-add", device="b", name="e", writable=True)
    client = d.nbd("e")
    simple = d.nbd(None)
    simple.go("e", structured=False)
    client.request(READ, 0, 16, flags=FUA)
    client.request(WRITE, 8192, 4, data=b"abcd")
    for length in (0, 16, 65536):
        client.request(READ, 0, length, flags=FUA)
        client.request(READ, 0, length, flags=FUA | DF)
        client.request(READ, 0, length)
        simple.request(READ, 0, length, flags=FUA)
    client.request(READ, 1 << 20, 1, flags=FUA)


@scenario
def wire_writes(d: Session) -> None:
    serve(d)
    client = d.nbd("e")
    client.request(WRITE, 1000, 4, data=b"abcd")
    client.request(WRITE, 1002, 4, data=b"efgh", flags=FUA)
    client.request(WRITE, 0, 0)
    client.request(WRITE, (1 << 20) - 2, 4, data=b"wxyz")
    client.request(WRITE, 1 << 40, 4, data=b"wxyz")
    client.request(WRITE, 0, 4, data=b"1234", flags=NO_HOLE)
    client.request(WRITE, 0, 4, data=b"1234", flags=DF)
    client.request(READ, 996, 16)
    client.request(ZEROES, 4000, 1000)
    client.request(ZEROES, 65536, 65536, flags=NO_HOLE)
    client.request(ZEROES, 131072, 65536, flags=FAST_ZERO)
    client.request(ZEROES, 131072, 65536, flags=FAST_ZERO | NO_HOLE | FUA)
    client.request(ZEROES, (1 << 20) - 2, 4)
    client.request(ZEROES, 0, 0)
    client.request(TRIM, 512 << 10, 4096)
    client.request(TRIM, 100, 100, flags=FUA)
    client.request(TRIM, (1 << 20) - 2, 4)
    client.request(TRIM, 0, 0)
    client.request(FLUSH)
    client.request(FLUSH, 1, 1)
    client.request(FLUSH, flags=FUA)
    d.map("e")
    d.content("disk.raw")
    # Behind the rest: what is cached of a zeroed range counts as data.
    client.request(CACHE, 0, 65536)
    client.request(CACHE, 0, 1 << 21)


@scenario
def wire_writes_to_read_only(d: Session) -> None:
    serve(d, writable=False)
    client = d.nbd("e")
    client.request(WRITE, 0, 4, data=b"abcd")
    client.request(ZEROES, 0, 4096)
    client.request(TRIM, 0, 4096)
    client.request(FLUSH)
    client.request(READ, 0, 4)


@scenario
def wire_block_status(d: Session) -> None:
    serve(d)
    client = d.nbd(None).flags()
    client.option(STRUCTURED)
    queries = ("base:allocation", "qemu:dirty-bitmap:b", "qemu:allocation-depth")
    client.option(SET_META, meta("e", *queries))
    client.option(GO, info("e"))
    client.request(BLOCK_STATUS, 0, 1 << 20)
    client.request(BLOCK_STATUS, 0, 1 << 20, flags=REQ_ONE)
    client.request(BLOCK_STATUS, 1000, 1000)
    client.request(BLOCK_STATUS, 4095, 2)
    client.request(BLOCK_STATUS, (1 << 20) - 1, 1)
    client.request(BLOCK_STATUS, 0, 0)
    client.request(BLOCK_STATUS, 1 << 20, 1)
    client.request(BLOCK_STATUS, 0, (1 << 20) + 1)
    client.request(BLOCK_STATUS, 0, 4096, flags=FUA)


@scenario
def wire_block_status_without_context(d: Session) -> None:
    serve(d)
    client = d.nbd("e")
    client.request(BLOCK_STATUS, 0, 4096)
    client.request(READ, 0, 4)


@scenario
def wire_unknown_requests(d: Session) -> None:
    serve(d)
    client = d.nbd("e")
    client.request(8, 0, 4096)
    client.request(99, 0, 4096)
    client.request(0xFFFF, 0, 0)
    client.request(READ, 0, 16, flags=0x8000)
    client.request(READ, 0, 16, flags=FUA)
    client.request(READ, 0, 16, flags=FAST_ZERO)
    client.request(WRITE, 0, 4, data=b"abcd", flags=FAST_ZERO)
    client.request(READ, 0, 4)


@scenario
def wire_bad_request_magic(d: Session) -> None:
    serve(d)
    client = d.nbd("e")
    client.request(READ, 0, 16, magic=0x25609514)
    client.end()
    d.nbd("e").request(READ, 0, 16)


@scenario
def wire_requests_over_the_limit(d: Session) -> None:
    d.qmp("blockdev-add", **null("big", 64 << 20))
    d.nbd_server()
    d.qmp("nbd-server-add", device="big", name="e", writable=True)
    client = d.nbd("e")
    client.request(READ, 0, 32 << 20)
    client.request(READ, 0, (32 << 20) + 1)
    client.request(ZEROES, 0, 64 << 20)
    client.request(TRIM, 0, 64 << 20)
    client.request(READ, 0, 4)
    client.request(WRITE, 0, (32 << 20) + 1)
    client.end()


@scenario
def wire_client_vanishes(d: Session) -> None:
    serve(d)
    client = d.nbd("e")
    client.send(struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 1, 0, 4096) + b"half")
    client.close()
    client = d.nbd("e")
    client.send(struct.pack(">IHHQQI", 0x25609513, 0, READ, 1, 0, 4096)[:20])
    client.close()
    d.nbd(None).close()
    d.nbd("e").request(READ, 0, 16)
    d.content("disk.raw")


@scenario
def wire_block_status_past_a_shorter_bitmap(d: Session) -> None:
    """The bitmap is that of a backing file, which ends before the disk."""
    d.file("base.raw", 512 << 10)
    below = ("-b", "base.raw", "-F", "raw")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", *below, "a.qcow2", "1M")
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.path("base.raw"))
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    d.nbd_server()
    names = ("clean", "dirty", "both", "end")
    for name in names:
        d.qmp("block-dirty-bitmap-add", node="f", name=name, granularity=65536, disabled=True)
    for bitmap, start, size in (("dirty", 0, 384), ("both", 64, 128), ("end", 448, 64)):
        d.qmp("block-dirty-bitmap-enable", node="f", name=bitmap)
        d.qmp("block-export-add", type="nbd", id="w", name="w", node_name="f", writable=True)
        d.io("w", f"write {start}k {size}k")
        d.qmp("block-export-del", id="w")
        d.event("BLOCK_EXPORT_DELETED")
        d.qmp("block-dirty-bitmap-disable", node="f", name=bitmap)
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file, backing="f")
    d.qmp("block-export-add", type="nbd", id="e", name="e", node_name="q", bitmaps=[*names])
    client = d.nbd(None).flags()
    client.option(STRUCTURED)
    client.option(SET_META, meta("e", *(f"qemu:dirty-bitmap:{name}" for name in names)))
    client.option(GO, info("e"))
    for flags in (0, REQ_ONE):
        for offset, length in ((0, 1024), (384, 640), (448, 128), (512, 512), (768, 4)):
            client.request(BLOCK_STATUS, offset << 10, length << 10, flags=flags)
