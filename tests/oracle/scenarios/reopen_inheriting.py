"""blockdev-reopen: what a node has from the one that opened it."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.reopen import reopen, state
from tests.oracle.session import Session


def changes(d: Session, *several: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Reopen nodes time and again; show what has become of all."""
    for one in several:
        reopen(d, *(one if isinstance(one, list) else [one]))
        state(d)


@scenario
def reopened_child_keeps_what_is_left_out_above(d: Session) -> None:
    child = {"driver": "file", "node-name": "f", "filename": d.file("disk.raw")}
    raw = {"driver": "raw", "node-name": "r", "file": "f"}
    nested = {**raw, "file": child}
    d.qmp("blockdev-add", **nested, **{"read-only": True, "cache": {"direct": True}})
    changes(
        d,
        raw,
        {**raw, "cache": {"no-flush": True}},
        {**raw, "read-only": False},
        {**raw, "cache": {"direct": False, "no-flush": False}},
        {**raw, "read-only": True, "auto-read-only": True},
        raw,
        {**nested, "file": {**child, "read-only": True}},
        {**raw, "read-only": False},
        nested,
    )


@scenario
def reopened_file_of_qcow2_stays_read_only(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "q.qcow2", "256K")
    child = {"driver": "file", "node-name": "f", "filename": d.path("q.qcow2")}
    image = {"driver": "qcow2", "node-name": "q", "file": "f"}
    d.qmp("blockdev-add", **{**image, "file": child, "read-only": True})
    changes(d, image, {**image, "read-only": False}, {**image, "read-only": True})
    changes(d, {**image, "file": child}, {**image, "read-only": True}, image)


@scenario
def reopened_grandchild_inherits_only_what_is_told(d: Session) -> None:
    child = {"driver": "file", "node-name": "f", "filename": d.file("disk.raw")}
    middle = {"driver": "raw", "node-name": "m", "file": "f"}
    top = {"driver": "raw", "node-name": "t", "file": "m"}
    nested = {**top, "file": {**middle, "file": child}, "read-only": True}
    d.qmp("blockdev-add", **nested)
    changes(
        d,
        top,
        {**top, "file": middle},
        {**top, "read-only": False},
        {**top, "read-only": True, "cache": {"direct": True}},
        {**top, "read-only": False},
        {**top, "cache": {"direct": False}},
        {**top, "read-only": True},
        [top, middle],
        [middle, top],
        middle,
        child,
        middle,
    )


@scenario
def reopened_for_itself_a_node_inherits_nothing(d: Session) -> None:
    child = {"driver": "file", "node-name": "f", "filename": d.file("disk.raw")}
    raw = {"driver": "raw", "node-name": "r", "file": child}
    d.qmp("blockdev-add", **raw, **{"read-only": True, "cache": {"direct": True}})
    changes(d, child, {**child, "read-only": True}, raw, {**raw, "read-only": True}, child)


@scenario
def reopened_backing_file_is_read_only_unless_told(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "q.qcow2", "256K")
    base = {"driver": "file", "node-name": "bf", "filename": d.file("disk.raw")}
    below = {"driver": "raw", "node-name": "b", "file": "bf"}
    child = {"driver": "file", "node-name": "f", "filename": d.path("q.qcow2")}
    image = {"driver": "qcow2", "node-name": "q", "file": "f", "backing": "b"}
    nested = {**image, "file": child, "backing": {**below, "file": base}}
    d.qmp("blockdev-add", **nested)
    changes(
        d,
        image,
        {**image, "read-only": True},
        {**image, "cache": {"direct": True}},
        {**image, "read-only": False, "cache": {"direct": False}},
        below,
        {**below, "read-only": False},
        image,
        nested,
        below,
        image,
        [image, below],
        [below, image],
    )


@scenario
def reopen_of_a_node_twice_joins_what_is_told(d: Session) -> None:
    child = {"driver": "file", "node-name": "f", "filename": d.file("disk.raw")}
    raw = {"driver": "raw", "node-name": "r", "file": "f"}
    nested = {**raw, "file": child}
    d.qmp("blockdev-add", **nested)
    direct, no_flush = {"cache": {"direct": True}}, {"cache": {"no-flush": True}}
    for several in (
        [{**raw, "read-only": True}, child],
        [child, {**raw, "read-only": True}],
        [{**child, **direct}, raw],
        [{**child, "read-only": True}, raw],
        [{**raw, **direct}, {**child, **no_flush}],
        [{**child, **no_flush}, {**raw, **direct}],
        [{**nested, "file": {**child, **no_flush}}, {**child, **direct}],
        [raw, raw],
        [{**raw, "read-only": True}, raw],
        [raw, {**raw, **direct}],
        [{**child, "filename": d.path("x.raw")}, raw],
        [{**child, "discard": "unmap"}, {**child, "detect-zeroes": "unmap"}],
        [{**child, "locking": "off"}, child],
    ):
        changes(d, several, nested)


@scenario
def reopen_twice_forgets_a_backing_file_that_was_nested(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "q.qcow2", "256K")
    base = {"driver": "file", "node-name": "b", "filename": d.file("disk.raw")}
    child = {"driver": "file", "node-name": "f", "filename": d.path("q.qcow2")}
    image = {"driver": "qcow2", "node-name": "q", "file": "f"}
    nested = {**image, "file": child, "backing": base}
    d.qmp("blockdev-add", **nested)
    changes(d, [nested, image], [{**image, "backing": "b"}, image])
    changes(d, [image, {**image, "backing": "b"}], [{**image, "backing": None}, image])


def _copied(d: Session) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make a node ``p`` with its file ``f``, which a job has put a filter on."""
    child = {"driver": "file", "node-name": "f", "filename": d.file("disk.raw")}
    nested = {"driver": "raw", "node-name": "p", "file": child}
    d.qmp("blockdev-add", **nested)
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "t.qcow2", "1M")
    target = {"driver": "file", "filename": d.path("t.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="t", file=target)
    d.qmp(
        "blockdev-backup",
        job_id="j",
        device="f",
        target="t",
        sync="full",
        auto_finalize=False,
        filter_node_name="filter",
    )
    d.event("BLOCK_JOB_PENDING")
    return nested, child


def _end(d: Session) -> None:
    d.qmp("job-finalize", id="j")
    d.event('"concluded"')


@scenario
def reopened_child_follows_again_when_a_filter_has_gone(d: Session) -> None:
    """Also if somebody else has used the child, and no longer does."""
    nested, child = _copied(d)
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="f")
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    _end(d)
    changes(
        d,
        {**nested, "detect-zeroes": "on"},
        {**nested, "read-only": True},
        {**nested, "file": {**child, "cache": {"direct": True}}},
    )


@scenario
def reopened_child_follows_no_longer_when_the_filter_is_replaced(d: Session) -> None:
    nested, child = _copied(d)
    d.qmp("blockdev-add", driver="raw", node_name="user", file="f", read_only=True)
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=1 << 20)
    changes(d, {**nested, "file": "filter"}, nested, {**nested, "file": "n"})
    _end(d)
    changes(d, {**nested, "file": "f"}, nested, {**nested, "file": {**child, "read-only": True}})
