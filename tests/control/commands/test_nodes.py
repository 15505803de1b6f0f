"""Replies are those of qemu-storage-daemon 7.2 to the same commands."""

import os
import re

import pytest

from qmpfleece.base.workers import Workers
from qmpfleece.block.graph import Graph
from qmpfleece.control.dispatch import Dispatcher
from qmpfleece.control.system import System
from qmpfleece.qapi.bus import EventBus
from qmpfleece.qapi.encode import encode


class Nodes:
    """Sends commands on nodes."""

    def __init__(self, dispatcher) -> None:
        self.dispatcher = dispatcher

    async def ask(self, name, **arguments: object):
        wire = {key.replace("_", "-"): value for key, value in arguments.items()}
        return await self.dispatcher.call(name, wire)

    async def add(self, **options: object):
        assert await self.ask("blockdev-add", **options) == {"return": {}}

    async def refused(self, name, **arguments: object):
        return (await self.ask(name, **arguments))["error"]["desc"]

    async def query(self, **arguments: object):
        reply = await self.ask("query-named-block-nodes", **arguments)
        return {node["node-name"]: node for node in reply["return"]}


@pytest.fixture
async def nodes():
    workers, bus = Workers(), EventBus()
    graph = Graph(workers, bus)
    yield Nodes(Dispatcher(System(bus=bus, graph=graph, exports=None)))
    await graph.close()
    workers.close()


def printed(node):
    return re.sub(r"#block\d+", "#block", encode(node).decode())


CACHE = '"cache": {"no-flush": false, "direct": false, "writeback": true}'


async def test_node_is_printed_as_qemu_prints_it(nodes):
    await nodes.add(driver="null-co", node_name="p")
    assert printed((await nodes.query())["p"]) == (
        '{"iops_rd": 0, "detect_zeroes": "off", "image": {"virtual-size": 1073741824,'
        ' "filename": "null-co://", "format": "null-co", "actual-size": 0}, "iops_wr": 0,'
        ' "ro": false, "node-name": "p", "backing_file_depth": 0, "drv": "null-co", "iops": 0,'
        ' "bps_wr": 0, "write_threshold": 0, "encrypted": false, "bps": 0, "bps_rd": 0,'
        f' {CACHE}, "file": "null-co://"}}'
    )


async def test_filter_shows_its_bitmaps_and_the_image_below(nodes, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * 4096 + bytes(1 << 20)[4096:])
    await nodes.add(driver="file", node_name="f", filename=str(disk))
    await nodes.add(driver="raw", node_name="disk", file="f")
    await nodes.add(driver="null-co", node_name="temp", size=1 << 20)
    await nodes.add(driver="copy-before-write", node_name="cbw", file="disk", target="temp")
    unnamed = {"recording": False, "persistent": False, "busy": False, "granularity": 65536}
    node = (await nodes.query())["cbw"]
    assert node["dirty-bitmaps"] == [unnamed | {"count": 1 << 20}, unnamed | {"count": 0}]
    assert node["backing_file_depth"] == 1
    image = node["image"]
    assert image["format"] == "copy-before-write"
    assert image["filename"] == node["file"] == str(disk)
    below = image.pop("backing-image")
    assert below == image | {"format": "raw"}
    assert image["dirty-flag"] is False
    flat = (await nodes.query(flat=True))["cbw"]
    assert flat["backing_file_depth"] == 0
    assert "backing-image" not in flat["image"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"driver": "null-aio"}, "null-aio://"),
        ({"driver": "null-co", "latency-ns": 5}, "null-co://"),
        (
            {"driver": "null-co", "read-zeroes": True, "size": 12345},
            'json:{"read-zeroes": true, "driver": "null-co", "size": 12345}',
        ),
        (
            {"driver": "null-co", "read-zeroes": False},
            'json:{"read-zeroes": false, "driver": "null-co"}',
        ),
        ({"driver": "raw", "file": {"driver": "null-co"}}, "null-co://"),
        ({"driver": "raw", "file": {"driver": "file", "filename": "IMG"}}, "IMG"),
        (
            {"driver": "raw", "offset": 0, "file": {"driver": "file", "filename": "IMG"}},
            'json:{"offset": 0, "driver": "raw", "file": {"driver": "file", "filename": "IMG"}}',
        ),
        (
            {
                "driver": "raw",
                "file": {
                    "driver": "raw",
                    "file": {"driver": "file", "filename": "IMG", "locking": "on"},
                },
            },
            'json:{"driver": "raw", "file": {"driver": "raw", "file":'
            ' {"driver": "file", "filename": "IMG"}}}',
        ),
        (
            {
                "driver": "raw",
                "file": {
                    "driver": "copy-before-write",
                    "file": {"driver": "null-co", "size": 1048576},
                    "target": {"driver": "null-co", "size": 1048576},
                },
            },
            'json:{"driver": "raw", "file": {"driver": "copy-before-write", "file":'
            ' {"driver": "null-co", "size": 1048576}, "target":'
            ' {"driver": "null-co", "size": 1048576}}}',
        ),
        (
            {
                "driver": "copy-before-write",
                "file": {"driver": "null-co", "size": 1048576},
                "target": {"driver": "null-co", "size": 1048576},
            },
            'json:{"driver": "null-co", "size": 1048576}',
        ),
    ],
)
async def test_file_name_is_plain_or_made_of_what_decides(nodes, tmp_path, options, name):
    image = tmp_path / "image"
    image.write_bytes(bytes(4096))

    def put(value):
        if isinstance(value, dict):
            return {key: put(item) for key, item in value.items()}
        return str(image) if value == "IMG" else value

    await nodes.add(node_name="top", **put(options))
    node = (await nodes.query())["top"]
    assert node["file"] == node["image"]["filename"] == name.replace("IMG", str(image))


async def test_what_has_changed_is_told_at_the_next_query(nodes, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    file = {"driver": "file", "filename": str(disk)}
    await nodes.add(driver="raw", node_name="n", file=file, read_only=True)
    before = printed((await nodes.query())["n"])
    assert printed((await nodes.query())["n"]) == before
    os.truncate(disk, 0)
    with disk.open("r+b") as opened:
        opened.truncate(1 << 20)
        opened.write(b"x" * 4096)
    assert (await nodes.query())["n"]["image"]["actual-size"] == 4096
    options = {"driver": "raw", "node-name": "n", "offset": 4096}
    assert await nodes.ask("blockdev-reopen", options=[options | {"file": file}]) == {"return": {}}
    node = (await nodes.query())["n"]
    assert (node["ro"], node["image"]["virtual-size"]) == (False, (1 << 20) - 4096)
    assert '"offset": 4096' in node["file"].replace('\\"', '"')
    await nodes.dispatcher.call("block-dirty-bitmap-add", {"node": "n", "name": "b"})
    assert (await nodes.query())["n"]["dirty-bitmaps"][0]["count"] == 0


async def test_name_of_a_filter_follows_the_node_that_it_is_moved_to(nodes, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
        await nodes.add(driver="file", node_name=name, filename=str(tmp_path / name))
    await nodes.add(driver="raw", node_name="top", file="one")
    await nodes.add(driver="raw", node_name="above", file="top")
    found = await nodes.query()
    assert found["top"]["file"] == str(tmp_path / "one")
    assert str(tmp_path / "one") in found["above"]["file"]
    options = {"driver": "raw", "node-name": "top", "file": "two"}
    assert await nodes.ask("blockdev-reopen", options=[options]) == {"return": {}}
    found = await nodes.query()
    assert found["top"]["file"] == str(tmp_path / "two")
    assert str(tmp_path / "two") in found["above"]["file"]


async def test_options_are_shown_as_they_were_resolved(nodes):
    await nodes.add(
        driver="null-aio",
        node_name="n",
        read_only=True,
        detect_zeroes="on",
        cache={"direct": True, "no-flush": True},
    )
    node = (await nodes.query())["n"]
    assert node["ro"] is True
    assert node["detect_zeroes"] == "on"
    assert node["cache"] == {"writeback": True, "direct": True, "no-flush": True}


async def test_nodes_are_listed_newest_first_a_nested_one_after_its_parent(nodes):
    await nodes.add(driver="null-co", node_name="a")
    await nodes.add(driver="raw", node_name="b", file={"driver": "null-co", "node-name": "nested"})
    assert list(await nodes.query()) == ["b", "nested", "a"]


async def test_query_block_lists_devices_of_which_there_are_none(nodes):
    await nodes.add(driver="null-co", node_name="a")
    assert await nodes.ask("query-block") == {"return": []}


async def test_reopening_nothing_changes_nothing(nodes):
    """QEMU 7.2 dies of it."""
    await nodes.add(driver="null-co", node_name="a")
    before = await nodes.query()
    assert await nodes.ask("blockdev-reopen", options=[]) == {"return": {}}
    assert await nodes.query() == before


async def test_delete_refuses_what_is_used_or_unknown(nodes):
    await nodes.add(driver="null-co", node_name="a")
    await nodes.add(driver="raw", node_name="b", file="a")
    await nodes.add(driver="raw", node_name="c", file={"driver": "null-co", "node-name": "own"})
    assert await nodes.refused("blockdev-del", node_name="a") == "Block device a is in use"
    assert (
        await nodes.refused("blockdev-del", node_name="own")
        == "Node own is not owned by the monitor"
    )
    assert (
        await nodes.refused("blockdev-del", node_name="x")
        == "Failed to find node with node-name='x'"
    )
    for name in "bac":
        assert await nodes.ask("blockdev-del", node_name=name) == {"return": {}}
    assert await nodes.query() == {}


@pytest.mark.parametrize(
    ("options", "desc"),
    [
        ({}, "Parameter 'driver' is missing"),
        ({"driver": "xx"}, "Parameter 'driver' does not accept value 'xx'"),
        ({"driver": 5}, "Invalid parameter type for 'driver', expected: string"),
        ({"driver": "null-co"}, "'node-name' must be specified for the root node"),
        ({"driver": "null-co", "node-name": "1a"}, "Invalid node-name: '1a'"),
        ({"driver": "null-co", "node-name": "x" * 40}, "Node name too long"),
        (
            {"driver": "raw", "node-name": "a", "file": 5},
            "Invalid parameter type for 'file', expected: BlockdevRef",
        ),
        ({"driver": "raw", "node-name": "a", "file": {}}, "Parameter 'file.driver' is missing"),
        (
            {"driver": "raw", "node-name": "a", "file": {"driver": "file", "filename": 5}},
            "Invalid parameter type for 'file.filename', expected: string",
        ),
        (
            {"driver": "raw", "node-name": "a", "file": {"driver": "null-co", "qq": 1}},
            "Parameter 'file.qq' is unexpected",
        ),
        (
            {"driver": "raw", "node-name": "a", "file": "nope"},
            "Cannot find device='nope' nor node-name='nope'",
        ),
        (
            {"driver": "null-co", "node-name": "a", "cache": {"direct": 1}},
            "Invalid parameter type for 'cache.direct', expected: boolean",
        ),
        (
            {"driver": "null-co", "node-name": "a", "detect-zeroes": "unmap"},
            "setting detect-zeroes to unmap is not allowed without setting discard operation"
            " to unmap",
        ),
        (
            {"driver": "null-co", "node-name": "a", "size": (1 << 63) - (1 << 30) + 512},
            "Could not refresh total sector count: File too large",
        ),
        (
            {"driver": "file", "node-name": "a", "filename": "/nonexistent"},
            "Could not open '/nonexistent': No such file or directory",
        ),
    ],
)
async def test_refused_definition_leaves_no_trace(nodes, options, desc):
    assert await nodes.refused("blockdev-add", **options) == desc
    assert await nodes.query() == {}


async def test_definition_may_be_deep_but_not_endless(nodes):
    options = {"driver": "null-co"}
    for _ in range(100):
        options = {"driver": "raw", "file": options}
    await nodes.add(**options, node_name="top")
    assert len(await nodes.query()) == 101
    assert await nodes.ask("blockdev-del", node_name="top") == {"return": {}}
    options = {"driver": "raw", "file": options}
    text = await nodes.refused("blockdev-add", **options, node_name="top")
    assert text == "JSON nesting depth limit exceeded"
    assert await nodes.query() == {}
