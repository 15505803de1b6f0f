"""Qcow2 images that can't be written to the end when they are closed, or become read-only."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.blkdebug import rule
from tests.oracle.scenarios.qcow2_bitmaps import (
    MIB,
    add,
    check,
    close,
    guest,
    image,
    seen,
    stored,
)
from tests.oracle.session import Session


def failing(d: Session, *rules: dict[str, Any], name: str = "a", **options: Any) -> dict[str, Any]:
    """Open an image whose file fails by rule, as a node of its name; return its options."""
    file = {"driver": "file", "filename": d.path(f"{name}.qcow2")}
    below = {"driver": "blkdebug", "image": file, "inject-error": list(rules)}
    whole = {"driver": "qcow2", "node-name": name, "file": below if rules else file, **options}
    d.qmp("blockdev-add", **whole)
    return whole


def written(d: Session, name: str = "a.qcow2") -> None:
    """Show what the guest's write has left."""
    d.tool("qemu-io", "-f", "qcow2", "-r", "-c", "read -P 7 1M 100k", name)


def _use_and_close(d: Session) -> None:
    """Give the image a bitmap, write, close it, and look at what is left."""
    add(d)
    guest(d, "write -P 7 1M 100k")
    close(d)
    stored(d)
    written(d)
    check(d)


@scenario
def qcow2_bitmaps_are_lost_but_data_is_not(d: Session) -> None:
    """The header can't be written."""
    image(d)
    failing(d, rule(iotype="write", sector=0))
    _use_and_close(d)


@scenario
def qcow2_bitmaps_are_kept_though_the_rest_of_the_first_cluster_is_unreadable(d: Session) -> None:
    """It is only written."""
    image(d)
    failing(d, rule(iotype="read", sector=1))
    _use_and_close(d)


@scenario
def qcow2_bitmaps_are_lost_for_want_of_room_in_the_header(d: Session) -> None:
    """Its one cluster is full."""
    d.file("base")
    backing = ("-b", "./" * 178 + "base", "-F", "raw")
    image(d, "-o", "cluster_size=512", *backing, size="4M")
    failing(d)
    _use_and_close(d)


@scenario
def qcow2_that_fails_to_become_read_only(d: Session) -> None:
    image(d)
    whole = failing(d, rule(iotype="write", sector=0))
    add(d)
    guest(d, "write -P 7 1M 100k")
    d.qmp("blockdev-reopen", options=[{**whole, "read-only": True}])
    guest(d, "write -P 7 3M 100k")
    close(d)
    stored(d)
    written(d)
    check(d)


@scenario
def qcow2_bitmap_can_not_be_removed(d: Session) -> None:
    image(d)
    d.tool("qemu-img", "bitmap", "--add", "a.qcow2", "b")
    d.tool("qemu-img", "bitmap", "--add", "a.qcow2", "c")
    failing(d, rule("cluster_alloc", iotype="write", sector=0))
    d.qmp("block-dirty-bitmap-remove", node="a", name="b")
    close(d)
    stored(d)
    check(d)


@scenario
def qcow2_bitmaps_that_stay_read_only_forbid_writes(d: Session) -> None:
    """They could not be marked in use when the image became writable."""
    image(d)
    for name in ("b", "c"):
        d.tool("qemu-img", "bitmap", "--add", "a.qcow2", name)
    d.tool("qemu-img", "bitmap", "--disable", "a.qcow2", "c")
    whole = failing(d, rule(iotype="write", once=True), **{"read-only": True, "discard": "unmap"})
    d.qmp("blockdev-reopen", options=[{**whole, "read-only": False}])
    seen(d)
    guest(d, "write -P 7 1M 100k", "write -z 2M 64k", "discard 3M 64k", "flush", "read 1M 512")
    d.qmp("block_resize", node_name="a", size=32 * MIB)
    d.qmp("block-dirty-bitmap-disable", node="a", name="b")
    d.qmp("block-dirty-bitmap-remove", node="a", name="b")
    guest(d, "write -P 7 1M 100k")
    d.qmp("block-dirty-bitmap-remove", node="a", name="c")
    guest(d, "write -P 7 1M 100k")
    close(d)
    stored(d)
    written(d)
    check(d)
