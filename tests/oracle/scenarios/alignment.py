"""Requests that are not aligned to what a node wants, and what bitmaps make of them."""

from typing import Any

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.blkdebug import add, export
from tests.oracle.scenarios.nbd_wire import FAST_ZERO, FUA, NO_HOLE, TRIM, WRITE, ZEROES
from tests.oracle.session import Session

_K = 1 << 10


def _aligned_to_4k(d: Session, **more: Any) -> None:
    """Export a node of a file full of 0x11 that wants whole blocks of 4 KiB."""
    image = {"driver": "file", "filename": d.file("b.raw", 1 << 20, (0x11, 0, 1 << 20)), **more}
    add(d, image, align=4096, **more)
    export(d)


def _each(d: Session, command: int, flags: int, *ranges: tuple[int, int], node: str = "b") -> None:
    """Send requests, and write down what each has marked in a new bitmap."""
    client = d.nbd("x")
    for number, (offset, length) in enumerate(ranges):
        d.qmp("block-dirty-bitmap-add", node=node, name=f"m{number}", granularity=512)
        data = b"\x77" * length if command == WRITE else b""
        client.request(command, offset, length, flags=flags, data=data)
        d.qmp("x-debug-block-dirty-bitmap-sha256", node=node, name=f"m{number}")
        d.qmp("block-dirty-bitmap-remove", node=node, name=f"m{number}")


@scenario
def fast_zero_of_parts_of_blocks(d: Session) -> None:
    _aligned_to_4k(d)
    for flags in (FAST_ZERO | NO_HOLE, FAST_ZERO):
        _each(
            d,
            ZEROES,
            flags,
            (0, 6 * _K),
            (10 * _K, 6 * _K),
            (10 * _K, 16 * _K),
            (33 * _K, 512),
            (65 * _K, 4096),
        )
        d.content("b.raw")
    _each(d, ZEROES, FAST_ZERO, (128 * _K, 8 * _K))
    d.content("b.raw")


_PARTS = (
    (0, 6 * _K),
    (10 * _K, 6 * _K),
    (33 * _K - 100, 100),
    (65 * _K, 4096),
    (80 * _K + 10, 12 * _K),
    (128 * _K, 8 * _K),
)


@scenario
def writes_of_parts_of_blocks_mark_whole_ones(d: Session) -> None:
    _aligned_to_4k(d)
    for command in (WRITE, ZEROES):  # QEMU dies of a discard
        _each(d, command, 0, *_PARTS, (200 * _K + 1000, 2000), (256 * _K + 512, 16 * _K))
    _each(d, WRITE, FUA, (300 * _K + 512, 512), ((1 << 20) - 512, 512))
    d.content("b.raw")
    d.qmp("query-blockstats", query_nodes=True)


@scenario
def discard_of_parts_of_blocks_past_the_cache(d: Session) -> None:
    name = d.file("b.raw", 1 << 20, (0x11, 0, 1 << 20))
    cache = {"direct": True}
    d.qmp(
        "blockdev-add", driver="file", node_name="b", filename=name, discard="unmap", cache=cache
    )
    export(d)
    _each(d, TRIM, 0, *_PARTS)
    d.content("b.raw")


@system_scenario
def discard_of_parts_of_blocks_of_a_disk_taken_for_raw(d: Session) -> None:
    name = d.file("b.raw", 1 << 20, (0x11, 0, 1 << 20))
    d.start("-drive", f"file={name},if=none,id=b,node-name=r,discard=unmap")
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="r", name="x", writable=True)
    _each(d, TRIM, 0, *_PARTS, node="r")
    _each(d, ZEROES, FAST_ZERO, *_PARTS, node="r")
    d.content("b.raw")


@scenario
def discard_of_what_stores_nothing(d: Session) -> None:
    for driver in ("null-co", "null-aio"):
        d.qmp("blockdev-add", driver=driver, node_name=driver, size=1 << 20, discard="unmap")
        d.qmp("blockdev-add", driver="raw", node_name="b", file=driver, discard="unmap")
        export(d)
        _each(d, TRIM, 0, (0, 65536), (100, 1000))
        _each(d, ZEROES, 0, (0, 65536), (100, 1000))
        d.qmp("block-export-del", id="e", mode="hard")
        d.event("BLOCK_EXPORT_DELETED")
        d.qmp("blockdev-del", node_name="b")
        d.qmp("nbd-server-stop")
        given = {"id": "e", "type": "nbd", "node_name": driver, "name": "x", "writable": True}
        d.qmp("block-export-add", **given)
        d.nbd_server()
        d.qmp("block-export-add", **given)
        _each(d, TRIM, 0, (0, 65536), (100, 1000), node=driver)
        d.qmp("block-export-del", id="e", mode="hard")
        d.event("BLOCK_EXPORT_DELETED")
        d.qmp("nbd-server-stop")
