"""blockdev-reopen of several nodes at once: each is changed as the ones before it will be."""

import os
from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.qcow2_bitmaps import stored
from tests.oracle.scenarios.reopen import file_node, reopen, state
from tests.oracle.session import Session

SIZE = 1 << 20


def image(d: Session, name: str, **more: Any) -> dict[str, Any]:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", "1M")
    options = {"driver": "qcow2", "node-name": name, **more}
    file = {"driver": "file", "node-name": f"{name}-file", "filename": d.path(f"{name}.qcow2")}
    d.qmp("blockdev-add", **options, file=file)
    return {**options, "file": f"{name}-file"}


@scenario
def reopened_nodes_must_not_close_a_circle_together(d: Session) -> None:
    a, b = image(d, "a"), image(d, "b")
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="a", name="a", writable=True)
    above, below = {**a, "backing": "b"}, {**b, "backing": "a"}
    reopen(d, above, below)
    reopen(d, {**a, "backing": "a"}, below)
    reopen(d, above, {**below, "lazy-refcounts": 1})
    reopen(d, above, {**below, "file": "none"})
    reopen(d, above, {**b, "backing": None, "data-file": "a"})
    reopen(d, {**above, "data-file": "a"}, below)
    state(d)
    d.io("a", "write -q -P 1 0 64k", "read -q -P 1 0 64k")
    reopen(d, above)
    reopen(d, below)
    state(d)


@scenario
def reopened_chain_is_turned_round(d: Session) -> None:
    b = image(d, "b")
    a = image(d, "a", backing="b")
    c = image(d, "c", backing="a")
    b["backing"] = None
    reopen(d, {**b, "backing": "a"}, {**a, "backing": None})
    reopen(d, {**a, "backing": None}, {**b, "backing": "a"})
    state(d)
    reopen(d, {**a, "backing": "b"}, b)
    reopen(d, b, {**a, "backing": "b"})
    reopen(d, {**c, "backing": "b"}, {**a, "backing": None}, {**b, "backing": "a"})
    state(d)
    reopen(d, {**a, "backing": "c"}, {**c, "backing": "a"})
    state(d)


@scenario
def reopened_windows_are_turned_round(d: Session) -> None:
    for name in ("n", "m"):
        d.qmp("blockdev-add", driver="null-co", node_name=name, size=SIZE)

    def window(name: str, file: str, **more: Any) -> dict[str, Any]:
        return {"driver": "raw", "node-name": name, "file": file, **more}

    d.qmp("blockdev-add", **window("a", "n"))
    d.qmp("blockdev-add", **window("b", "a"))
    reopen(d, window("a", "b"), window("b", "n"))
    reopen(d, window("b", "n"), window("a", "b"))
    state(d)
    reopen(d, window("a", "m"), window("b", "a"))
    reopen(d, window("a", "b"), window("b", "a"))
    reopen(d, window("a", "b", offset=512), window("b", "a", offset=SIZE + 512))
    reopen(d, window("b", "a"), window("a", "b"))
    state(d)


@scenario
def reopened_image_becomes_writable_as_its_file_goes_past_the_cache(d: Session) -> None:
    """In whatever order: only the file knows how it wants to be written to."""
    q = image(d, "q")
    d.qmp("block-dirty-bitmap-add", node="q", name="b", persistent=True)
    d.qmp("blockdev-del", node_name="q")
    file = {"driver": "file", "node-name": "q-file", "filename": d.path("q.qcow2")}
    d.qmp("blockdev-add", **file)
    d.qmp("blockdev-add", **q, **{"read-only": True})
    d.nbd_server()
    direct = {**file, "cache": {"direct": True}}
    for changes in ((direct, q), (file, {**q, "read-only": True}), (q, direct)):
        reopen(d, *changes)
        stored(d, "q.qcow2")
    d.qmp("block-export-add", type="nbd", id="e", node_name="q", name="q", writable=True)
    d.io("q", "write -q -P 3 0 64k")


@scenario
def reopened_nodes_stay_as_long_as_they_were(d: Session) -> None:
    """Whatever has become of what they lie on."""
    f = file_node(d)
    d.qmp("object-add", qom_type="throttle-group", id="g")
    t = {"driver": "throttle", "node-name": "t", "throttle-group": "g", "file": "f"}
    d.qmp("blockdev-add", **t)
    r = {"driver": "raw", "node-name": "r", "file": "f"}
    d.qmp("blockdev-add", **r)
    b = {"driver": "blkdebug", "node-name": "b", "image": "r"}
    d.qmp("blockdev-add", **b)
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=SIZE // 2)
    for size in (2 * SIZE, SIZE // 2):
        os.truncate(d.path("disk.raw"), size)
        reopen(d, f)
        reopen(d, t, r, b)
        state(d)
    reopen(d, {**t, "file": "n"})
    reopen(d, {**r, "file": "n"})
    state(d)
    reopen(d, b)
    state(d)
