"""blockdev-reopen: what may change, what keeps its value, and that it is all or nothing."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.qcow2_bitmaps import stored
from tests.oracle.session import Session


def reopen(d: Session, *options: dict[str, Any]) -> None:
    d.qmp("blockdev-reopen", options=list(options))


def state(d: Session) -> None:
    d.qmp("query-named-block-nodes", flat=True)


def file_node(
    d: Session, node_name: str = "f", name: str = "disk.raw", **more: Any
) -> dict[str, Any]:
    options = {"driver": "file", "node-name": node_name, "filename": d.file(name), **more}
    d.qmp("blockdev-add", **options)
    return options


@scenario
def reopen_refuses_what_it_cannot_find(d: Session) -> None:
    d.qmp("blockdev-reopen")
    reopen(d, {"driver": "null-co"})
    reopen(d, {"driver": "null-co", "node-name": "none"})
    d.qmp("blockdev-add", driver="null-co", node_name="n")
    reopen(d, {"driver": "null-aio", "node-name": "n"})
    reopen(d, {"node-name": "n"})
    reopen(d, {"driver": "nonesuch", "node-name": "n"})
    reopen(d, {"driver": "null-co", "node-name": "n"})
    reopen(d, {"driver": "null-co", "node-name": "n"}, {"driver": "null-co", "node-name": "n"})
    reopen(d, {"driver": "null-co", "node-name": "n", "size": 5})
    reopen(d, {"driver": "null-co", "node-name": "n", "read-zeroes": True})
    reopen(d, {"driver": "null-co", "node-name": "n", "read-only": True})
    reopen(d, {"driver": "null-co", "node-name": "n", "colour": "red"})
    reopen(d, {"driver": "null-co", "node-name": "n", "discard": "maybe"})
    state(d)


@scenario
def reopen_file_options(d: Session) -> None:
    base = file_node(d)
    for more in (
        {},
        {"read-only": True},
        {"read-only": True, "force-share": True},
        {"force-share": True},
        {"read-only": False},
        {"cache": {"direct": True}},
        {"cache": {"no-flush": True}},
        {"cache": {}},
        {"discard": "unmap"},
        {"detect-zeroes": "unmap"},
        {"detect-zeroes": "unmap", "discard": "unmap"},
        {"detect-zeroes": "on"},
        {"auto-read-only": True},
        {"auto-read-only": True, "read-only": True},
        {"aio": "native"},
        {"aio": "native", "cache": {"direct": True}},
        {"aio": "io_uring"},
        {"aio": "threads"},
        {"locking": "off"},
        {"locking": "on"},
        {"locking": "auto"},
        {"x-check-cache-dropped": True},
        {"aio-max-batch": 5},
        {"pr-manager": "p"},
        {},
        {"filename": d.file("other.raw")},
        {"drop-cache": False},
        {"x-check-cache-dropped": True},
        {},
    ):
        reopen(d, {**base, **more})
        state(d)
    reopen(d, {"driver": "file", "node-name": "f"})


@scenario
def reopen_of_a_chain_gives_inheriting_children_their_options(d: Session) -> None:
    name = d.file("disk.raw")
    child = {"driver": "file", "node-name": "f", "filename": name}
    base = {"driver": "raw", "node-name": "r", "file": child}
    d.qmp("blockdev-add", **base)
    for more in (
        {},
        {"file": "f"},
        {"read-only": True},
        {"read-only": True, "file": "f"},
        {"read-only": False, "file": "f"},
        {"cache": {"direct": True}, "file": "f"},
        {"cache": {"no-flush": True}},
        {"discard": "unmap"},
        {"file": {**child, "discard": "unmap"}},
        {"file": {**child, "read-only": True}},
        {"file": {**child, "filename": d.path("x.raw")}},
        {"file": {**child, "node-name": "g"}},
        {"file": "none"},
        {"offset": 512},
        {"size": 1024},
        {"offset": 512, "size": 1024},
        {"size": 100},
        {"offset": 1 << 40},
        {"offset": 0},
        {"node-name": "r", "file": None},
    ):
        reopen(d, {**base, **more})
        state(d)
    reopen(d, {"driver": "raw", "node-name": "r"})
    reopen(d, {"driver": "raw", "node-name": "r", "read-only": True})
    state(d)


@scenario
def reopen_respects_users(d: Session) -> None:
    base = file_node(d)
    raw = {"driver": "raw", "node-name": "r", "file": "f"}
    d.qmp("blockdev-add", **raw)
    reopen(d, {**base, "read-only": True})
    state(d)
    d.nbd_server()
    reopen(d, {**base, "read-only": False})
    d.qmp("block-export-add", type="nbd", id="e", node_name="r", writable=True)
    reopen(d, {**base, "read-only": True})
    reopen(d, {**raw, "read-only": True})
    reopen(d, {**raw, "read-only": True}, {**base, "read-only": True})
    d.qmp("block-export-del", id="e")
    reopen(d, {**raw, "read-only": True}, {**base, "read-only": True})
    state(d)
    d.qmp("block-export-add", type="nbd", id="e", node_name="r", writable=True)
    reopen(d, {**raw, "read-only": False})
    reopen(d, {**base, "read-only": False}, {**raw, "read-only": False})
    d.qmp("block-export-add", type="nbd", id="e", node_name="r", writable=True)
    state(d)


@scenario
def reopen_is_all_or_nothing(d: Session) -> None:
    a = file_node(d, "a", "a.raw")
    b = file_node(d, "b", "b.raw")
    reopen(d, {**a, "read-only": True}, {**b, "filename": "/nonesuch"})
    state(d)
    reopen(d, {**a, "read-only": True}, {"driver": "file", "node-name": "none", "filename": "x"})
    reopen(d, {**a, "discard": "unmap"}, {**b, "detect-zeroes": "unmap"})
    state(d)
    reopen(d, {**a, "read-only": True}, {**b, "read-only": True, "cache": {"direct": True}})
    state(d)


@scenario
def reopen_moves_file_children(d: Session) -> None:
    file_node(d, "a", "a.raw")
    file_node(d, "b", "b.raw")
    raw = {"driver": "raw", "node-name": "r", "file": "a"}
    d.qmp("blockdev-add", **raw)
    reopen(d, {**raw, "file": "b"})
    state(d)
    reopen(d, {**raw, "file": "none"})
    reopen(d, {**raw, "file": "r"})
    top = {"driver": "raw", "node-name": "top", "file": "r"}
    d.qmp("blockdev-add", **top)
    reopen(d, {**raw, "file": "top"})
    reopen(d, {**top, "file": "a"})
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=1 << 20)
    reopen(d, {**top, "file": "n"})
    state(d)
    d.qmp("blockdev-del", node_name="b")
    d.qmp("blockdev-del", node_name="r")
    d.qmp("blockdev-del", node_name="b")


@scenario
def reopen_qcow2_options(d: Session) -> None:
    name = d.path("disk.qcow2")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", name, "1M")
    file_node_options = {"driver": "file", "node-name": "f", "filename": name}
    d.qmp("blockdev-add", **file_node_options)
    base = {"driver": "qcow2", "node-name": "q", "file": "f"}
    d.qmp("blockdev-add", **base)
    for more in (
        {},
        {"lazy-refcounts": True},
        {"lazy-refcounts": False},
        {"overlap-check": "all"},
        {"overlap-check": {"template": "none", "active-l1": True}},
        {"overlap-check": "most"},
        {"cache-size": 1 << 20},
        {"l2-cache-size": 1 << 20, "cache-size": 1 << 10},
        {"l2-cache-size": 1, "refcount-cache-size": 1, "cache-size": 1},
        {"l2-cache-entry-size": 4096},
        {"l2-cache-entry-size": 4095},
        {"cache-clean-interval": 1},
        {"pass-discard-request": False},
        {"pass-discard-snapshot": False},
        {"pass-discard-other": True},
        {"encrypt": {"format": "luks"}},
        {"data-file": "f"},
        {"read-only": True},
        {"backing": None},
        {"backing": "none"},
        {"read-only": False},
    ):
        reopen(d, {**base, **more})
        state(d)


@scenario
def reopen_replaces_backing_files(d: Session) -> None:
    name = d.path("disk.qcow2")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", name, "1M")
    d.qmp("blockdev-add", driver="file", node_name="f", filename=name)
    for node_name in ("n", "m"):
        d.qmp("blockdev-add", driver="null-co", node_name=node_name, size=1 << 20)
    base = {"driver": "qcow2", "node-name": "q", "file": "f"}
    d.qmp("blockdev-add", **base)
    reopen(d, {**base, "backing": "n"})
    state(d)
    reopen(d, base)
    reopen(d, {**base, "backing": "m"})
    state(d)
    reopen(d, {**base, "backing": "q"})
    reopen(d, {**base, "backing": {"driver": "null-co"}})
    reopen(d, {**base, "backing": "none"})
    reopen(d, {**base, "backing": None})
    state(d)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="m")
    reopen(d, {"driver": "raw", "node-name": "r", "file": "m", "backing": "n"})
    d.qmp("blockdev-add", driver="null-co", node_name="small", size=1 << 10)
    reopen(d, {**base, "backing": "small"})
    reopen(d, {**base, "backing": "f"})
    state(d)


@scenario
def reopen_stores_persistent_bitmaps(d: Session) -> None:
    name = d.path("disk.qcow2")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", name, "1M")
    file = {"driver": "file", "node-name": "f", "filename": name}
    d.qmp("blockdev-add", **file)
    base = {"driver": "qcow2", "node-name": "q", "file": "f"}
    d.qmp("blockdev-add", **base)
    d.qmp("block-dirty-bitmap-add", node="q", name="b", persistent=True)
    d.qmp("block-dirty-bitmap-add", node="q", name="t")
    d.qmp("block-dirty-bitmap-add", node="q", name="off", persistent=True, disabled=True)
    reopen(d, {**base, "read-only": True})
    state(d)
    stored(d, "disk.qcow2")
    d.qmp("block-dirty-bitmap-clear", node="q", name="b")
    d.qmp("block-dirty-bitmap-clear", node="q", name="t")
    d.qmp("block-dirty-bitmap-remove", node="q", name="b")
    d.qmp("block-dirty-bitmap-add", node="q", name="c", persistent=True)
    reopen(d, {**base, "read-only": True})
    reopen(d, base)
    state(d)
    stored(d, "disk.qcow2")
    d.qmp("block-dirty-bitmap-clear", node="q", name="b")
    d.qmp("block-dirty-bitmap-remove", node="q", name="off")
    d.qmp("blockdev-del", node_name="q")
    d.qmp("blockdev-del", node_name="f")
    stored(d, "disk.qcow2")


@scenario
def reopen_of_throttle_changes_the_group(d: Session) -> None:
    for name in ("g", "h"):
        d.qmp("object-add", qom_type="throttle-group", id=name)
    d.qmp("blockdev-add", driver="null-co", node_name="n")
    base = {"driver": "throttle", "node-name": "t", "file": "n", "throttle-group": "g"}
    d.qmp("blockdev-add", **base)
    reopen(d, {**base, "throttle-group": "h"})
    state(d)
    d.qmp("object-del", id="g")
    d.qmp("object-del", id="h")
    reopen(d, {**base, "throttle-group": "none"})
    reopen(d, {"driver": "throttle", "node-name": "t", "file": "n"})
    state(d)


@scenario
def reopen_of_other_drivers(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=1 << 20, read_zeroes=True)
    file_node(d, "t", "t.raw")
    debug = {"driver": "blkdebug", "node-name": "d", "image": "n"}
    d.qmp("blockdev-add", **debug)
    reopen(d, debug)
    reopen(d, {**debug, "align": 4096})
    reopen(d, {**debug, "inject-error": [{"event": "read_aio"}]})
    reopen(d, {**debug, "read-only": True})
    reopen(d, {**debug, "image": "t"})
    cbw = {"driver": "copy-before-write", "node-name": "c", "file": "n", "target": "t"}
    d.qmp("blockdev-add", **cbw)
    reopen(d, cbw)
    reopen(d, {**cbw, "on-cbw-error": "break-snapshot"})
    access = {"driver": "snapshot-access", "node-name": "s", "file": "c"}
    d.qmp("blockdev-add", **access)
    reopen(d, access)
    reopen(d, {**access, "read-only": True})
    state(d)


@scenario
def reopen_while_a_job_holds_the_chain(d: Session) -> None:
    name = d.path("disk.qcow2")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", name, "1M")
    file = {"driver": "file", "node-name": "f", "filename": name}
    d.qmp("blockdev-add", **file)
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=1 << 20)
    d.qmp("blockdev-add", driver="null-co", node_name="m", size=1 << 20)
    file_node(d, "t", "t.raw")
    base = {"driver": "qcow2", "node-name": "q", "file": "f", "backing": "n"}
    d.qmp("blockdev-add", **base)
    d.qmp(
        "blockdev-backup", job_id="j", device="q", target="t", sync="none", filter_node_name="cbw"
    )
    reopen(d, {**base, "backing": "m"})
    reopen(d, {**base, "read-only": True})
    target = {"driver": "file", "node-name": "t", "filename": d.path("t.raw")}
    reopen(d, {**target, "read-only": True})
    reopen(d, base)
    state(d)
    d.qmp("block-job-cancel", device="j")
    d.event("BLOCK_JOB_CANCELLED")


@scenario
def snapshots_make_the_old_image_read_only(d: Session) -> None:
    for name in ("disk.qcow2", "over.qcow2"):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", d.path(name), "1M")
    file = {"driver": "file", "node-name": "f", "filename": d.path("disk.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    d.qmp("block-dirty-bitmap-add", node="q", name="b", persistent=True)
    over = {"driver": "file", "node-name": "of", "filename": d.path("over.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="o", file=over, backing=None)
    d.qmp("blockdev-snapshot", node="q", overlay="o")
    state(d)
    stored(d, "disk.qcow2")
    d.qmp(
        "blockdev-snapshot-sync",
        node_name="o",
        snapshot_file=d.path("third.qcow2"),
        snapshot_node_name="third",
    )
    state(d)


@scenario
def reopen_of_formats_on_read_only_files(d: Session) -> None:
    name = d.path("disk.qcow2")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", name, "1M")
    file = {"driver": "file", "node-name": "f", "filename": name, "read-only": True}
    d.qmp("blockdev-add", **file)
    base = {"driver": "qcow2", "node-name": "q", "file": "f", "read-only": True}
    d.qmp("blockdev-add", **base)
    reopen(d, {**base, "read-only": False})
    reopen(d, {**file, "read-only": False}, {**base, "read-only": False})
    state(d)
    reopen(d, {**file, "read-only": True})
    reopen(d, {**base, "read-only": True}, {**file, "read-only": True})
    state(d)


@scenario
def reopen_of_a_shared_file(d: Session) -> None:
    name = d.file("disk.raw")
    file = {"driver": "file", "node-name": "f", "filename": name}
    d.qmp("blockdev-add", **file, read_only=True, force_share=True)
    reopen(d, file)
    reopen(d, {**file, "read-only": True, "force-share": True, "discard": "unmap"})
    reopen(d, {**file, "read-only": False, "force-share": True})
    state(d)
