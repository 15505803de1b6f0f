"""blockdev-reopen: of several things that can't be, which one is told."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.reopen import file_node, reopen
from tests.oracle.session import Session

SIZE = 1 << 20


@scenario
def reopened_window_before_another_file(d: Session) -> None:
    """The window must lie in the file that there is, whatever is to be its file."""
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=SIZE)
    d.qmp("blockdev-add", driver="null-co", node_name="small", size=SIZE // 2)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="n")
    windows: tuple[dict[str, int], ...] = (
        *({"offset": 1000, "size": SIZE}, {"size": 0}, {"size": 1000}, {"offset": 1000}),
        *({"offset": SIZE + 512}, {"size": 2 * SIZE}, {"offset": SIZE // 2 + 512}, {}),
    )
    for window in windows:
        for file in ("r", "none", "n", "small"):
            reopen(d, {"driver": "raw", "node-name": "r", "file": file, **window})
            d.qmp("query-named-block-nodes")


@scenario
def reopened_with_definitions_of_children(d: Session) -> None:
    path = d.file("disk.raw", SIZE)
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=SIZE)
    d.qmp("blockdev-add", driver="blkdebug", node_name="b", image="n")
    file: dict[str, Any] = {"driver": "file", "filename": path}
    d.qmp("blockdev-add", driver="blkdebug", node_name="c", image={**file, "node-name": "p"})
    d.qmp("blockdev-add", driver="raw", node_name="r", file={**file, "node-name": "q"})
    named = {**file, "node-name": "new"}
    children: tuple[dict[str, Any], ...] = (
        *(named, file, {**file, "node-name": "p"}, {"driver": "null-co"}),
        *({"driver": "raw", "file": "n"}, {"driver": "blkdebug", "image": named}),
    )
    for name in ("b", "c", "r"):
        for child in children:
            for more in ({}, {"align": 512}):
                reopen(d, {"driver": "blkdebug", "node-name": name, "image": child, **more})
            for more in ({}, {"offset": 5}):
                reopen(d, {"driver": "raw", "node-name": name, "file": child, **more})


@scenario
def reopened_as_if_with_another_driver(d: Session) -> None:
    base = file_node(d, locking="off")
    more = {"aio": "threads", "discard": "unmap", "x-check-cache-dropped": True}
    file_node(d, "g", "other.raw", **more)
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=SIZE, read_zeroes=True)
    rule = {"event": "none", "errno": 5, "once": True}
    d.qmp("object-add", qom_type="throttle-group", id="group")
    nodes: tuple[dict[str, Any], ...] = (
        {"driver": "blkdebug", "image": "n", "align": 512, "inject-error": [rule]},
        {"driver": "raw", "file": "n", "size": SIZE, "offset": 0},
        {"driver": "throttle", "file": "n", "throttle-group": "group"},
    )
    for number, node in enumerate(nodes):
        d.qmp("blockdev-add", **{"node-name": f"n{number}", **node})
    drivers: tuple[dict[str, Any], ...] = (
        *nodes,
        {"driver": "null-co"},
        {"driver": "null-aio", "size": 512},
        {"driver": "file", "filename": base["filename"]},
        {"driver": "raw", "file": "none"},
        {"driver": "snapshot-access", "file": "n"},
        {"driver": "copy-before-write", "file": "n", "target": "n"},
    )
    for name in ("f", "g", "n", "n0", "n1", "n2"):
        for driver in drivers:
            reopen(d, {"node-name": name, **driver})
            reopen(d, {"node-name": name, "read-only": True, **driver})


@scenario
def reopened_without_the_data_file(d: Session) -> None:
    """What the image names must be told of, but for a backing file that there is not."""
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "q.qcow2", "1M")
    image = {"driver": "qcow2", "node-name": "q"}
    image["file"] = file = {"driver": "file", "filename": d.path("q.qcow2")}
    d.qmp("blockdev-add", **image)
    data = {"driver": "file", "filename": "data.raw"}
    reopen(d, image)
    reopen(d, {**image, "data-file": data})
    reopen(d, {**image, "data-file": data, "read-only": True})
    reopen(d, {**image, "file": {**file, "filename": "other"}})
    reopen(d, {**image, "lazy-refcounts": 1})
    reopen(d, {**image, "data-file": {**data, "filename": "other"}})
    d.qmp("blockdev-del", node_name="q")
    d.qmp("blockdev-add", driver="file", node_name="d", filename=d.path("data.raw"))
    d.qmp("blockdev-add", **image, **{"data-file": "d"})
    reopen(d, image)
    reopen(d, {**image, "data-file": "d"})


@scenario
def reopened_to_a_backing_file_without_a_name(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    image = {"driver": "qcow2", "node-name": "q"}
    d.qmp("blockdev-add", driver="null-co", node_name="n", read_only=True)
    d.qmp("blockdev-add", **image, file=file)
    for more in ({"backing": "n"}, {"backing": ""}, {"backing": None}, {"backing": ""}):
        d.qmp("blockdev-reopen", options=[{**image, "file": file, **more}])
        d.qmp("query-named-block-nodes", flat=True)
    d.qmp("blockdev-reopen", options=[{**image, "file": ""}])


@scenario
def reopened_into_the_cache_although_read_past_it(d: Session) -> None:
    file = {"driver": "file", "filename": d.file("a.raw", 1 << 20), "aio": "native"}
    direct = {"cache": {"direct": True}}
    d.qmp("blockdev-add", **file, **direct, node_name="f")
    d.qmp("blockdev-add", driver="raw", node_name="r", file=file, **direct)
    for more in ({}, direct, {"aio": "threads"}, {}):
        d.qmp("blockdev-reopen", options=[{**file, "node-name": "f", **more}])
    for more in ({}, direct):
        d.qmp(
            "blockdev-reopen", options=[{"driver": "raw", "node-name": "r", "file": file, **more}]
        )
    d.qmp("query-named-block-nodes", flat=True)
