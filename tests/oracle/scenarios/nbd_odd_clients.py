"""What NBD clients say that few say: options cut short, odd names, zeroes where there are none."""

import struct
from typing import Any

from tests.oracle.nbd import NbdClient
from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.cbw import failing_target
from tests.oracle.scenarios.devices import CONTROLLER
from tests.oracle.scenarios.nbd_wire import (
    ABORT,
    BLOCK_STATUS,
    CACHE,
    DF,
    DISC,
    EXPORT_NAME,
    FAST_ZERO,
    FUA,
    GO,
    INFO,
    LIST,
    LIST_META,
    NO_HOLE,
    READ,
    SET_META,
    STARTTLS,
    STRUCTURED,
    TRIM,
    WRITE,
    ZEROES,
    info,
    meta,
    name_of,
    serve,
)
from tests.oracle.session import Session

_FIXED = b"\0\0\0\1"


def _option(number: int, data: bytes, length: int | None = None) -> bytes:
    """Return an option whose data is said to have another length."""
    said = len(data) if length is None else length
    return b"IHAVEOPT" + struct.pack(">II", number, said) + data


def _say(d: Session, data: bytes) -> None:
    """Send bytes, and nothing more."""
    client = d.nbd(None)
    client.send(data)
    client.shut_down()
    client.take_all()


@scenario
def negotiation_that_ends_anywhere(d: Session) -> None:
    serve(d)
    whole = _FIXED + _option(GO, info("e", 3))
    for end in (2, 4, 5, 11, 12, 15, 16, 19, 20, 21, len(whole) - 1):
        _say(d, whole[:end])
    _say(d, _FIXED + b"IHAVEOPX")
    _say(d, _FIXED + _option(STRUCTURED, b"") + b"GET / HT")


@scenario
def options_whose_data_does_not_come(d: Session) -> None:
    serve(d)
    for option in (99, LIST, STARTTLS, STRUCTURED, ABORT, EXPORT_NAME, INFO, GO):
        for data in (b"", b"\0\0\0\1"):
            _say(d, _FIXED + _option(option, data, 1000))
    _say(d, _FIXED + _option(ABORT, b"", 300 << 10))  # more than is read of an option
    client = d.nbd(None).flags()
    client.send(_option(99, b"x" * 500, 1000))  # answered when the rest is there
    client.send(b"x" * 500)
    client.option_replies(99)
    client.option(LIST)


@scenario
def options_longer_than_anybody_needs(d: Session) -> None:
    serve(d)
    client = d.nbd(None).flags()
    client.option(STRUCTURED)
    client.option(SET_META, meta("e", *["x" * 4000] * 70, "base:allocation"))
    client.option(LIST)


@scenario
def names_with_nul_in_them(d: Session) -> None:
    serve(d)
    client = d.nbd(None).flags()
    client.option(STRUCTURED)
    for query in ("base:allocation\0", "\0", "base:\0allocation", "\0" * 4096, "\0" * 4097):
        client.option(LIST_META, meta("e", query))
        client.option(SET_META, meta("e", "base:allocation", query))
    client.option(SET_META, name_of("e\0") + bytes(4))


@scenario
def zeroes_in_names_are_two_bytes_on_the_wire(d: Session) -> None:
    """As they are where QEMU has read JSON; so nothing ends at them."""
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=1 << 20)
    for bitmap in ("a\0b", "a\0c"):
        d.qmp("block-dirty-bitmap-add", node="n", name=bitmap, disabled=True)
    d.nbd_server()
    common = {"type": "nbd", "node_name": "n", "bitmaps": ["a\0b", "a\0c"]}
    d.qmp("block-export-add", id="e", name="a\0b", description="\0c", **common)
    d.qmp("block-export-add", id="e2", name="a\0b", **common)
    for size in (2048, 2049):
        name, text = f"i{size}", "\0" * size
        d.qmp("block-export-add", type="nbd", id=name, node_name="n", name=text)
        d.qmp("block-export-add", type="nbd", id=f"d{size}", node_name="n", description=text)
    for size in (511, 512):
        d.qmp("block-dirty-bitmap-add", node="n", name="\0" * size)
    client = d.nbd(None).flags()
    client.option(STRUCTURED)
    client.option(LIST)
    name = b"a\xc0\x80b"
    named = struct.pack(">I", len(name)) + name
    client.option(INFO, named + struct.pack(">HHH", 2, 1, 2))
    query = b"qemu:dirty-bitmap:a\xc0\x80c"
    client.option(SET_META, named + struct.pack(">II", 1, len(query)) + query)
    client.option(GO, named + bytes(2))
    client.request(BLOCK_STATUS, 0, 1 << 20)
    client.request(DISC)
    client.end()


@scenario
def descriptions_that_are_empty(d: Session) -> None:
    serve(d)
    common = {"type": "nbd", "node_name": "f"}
    d.qmp("block-export-add", id="empty", name="empty", description="", **common)
    d.qmp("block-export-add", id="none", name="none", **common)
    client = d.nbd(None).flags()
    client.option(LIST)
    for name in ("empty", "none"):
        client.option(INFO, info(name))
        client.option(INFO, info(name, 2))
    client.option(GO, info("empty"))


@scenario
def blocks_that_are_not_asked_for(d: Session) -> None:
    image = {"driver": "null-co", "size": 1 << 20}
    d.qmp("blockdev-add", driver="blkdebug", node_name="b", image=image, align=4 << 10)
    d.qmp("blockdev-add", driver="blkdebug", node_name="large", image=image, align=64 << 10)
    d.nbd_server()
    for node in ("b", "large"):
        d.qmp("nbd-server-add", device=node)
        client = d.nbd(None).flags()
        for requests in ((), (0, 1, 2), (3,), (0, 3)):
            client.option(INFO, info(node, *requests))
        client.option(GO, info(node))


@scenario
def zeroes_that_must_be_fast(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=1 << 20)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="n")
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("disk.raw"))
    d.nbd_server()
    for node in ("n", "r", "f"):
        d.qmp("nbd-server-add", device=node, writable=True)
        client = d.nbd(node)
        for flags in (0, FAST_ZERO, FAST_ZERO | NO_HOLE):
            client.request(ZEROES, 0, 4096, flags=flags)
            client.request(ZEROES, 100, 1000, flags=flags)
            client.request(ZEROES, 512, 0, flags=flags)


@scenario
def depths_seen_through_filters_and_past_ends(d: Session) -> None:
    d.file("base.raw", 1 << 17, (1, 0, 1 << 17))
    options = ("-o", "cluster_size=4k", "-b", "base.raw", "-F", "raw")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", *options, "q.qcow2", "256K")
    d.tool("qemu-io", "-f", "qcow2", "-c", "write -q -P 8 20k 4k", "q.qcow2")
    file = {"driver": "file", "filename": d.path("q.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    target = {"driver": "file", "filename": d.file("temp.raw", 1 << 18)}
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="q", target=target)
    d.qmp("blockdev-add", driver="blkdebug", node_name="b", image="c")
    d.nbd_server()
    for node in ("q", "c", "b"):
        common = {"type": "nbd", "allocation_depth": True}
        d.qmp("block-export-add", id=node, node_name=node, **common)
        client = d.nbd(None).flags()
        client.option(STRUCTURED)
        client.option(SET_META, meta(node, "base:allocation", "qemu:allocation-depth"))
        client.option(GO, info(node))
        client.request(BLOCK_STATUS, 0, 1 << 18)
        client.request(BLOCK_STATUS, 22 << 10, 100 << 10)
        client.request(DISC)
        client.end()


@scenario
def requests_for_nothing(d: Session) -> None:
    """They reach who reads and writes, if that can be where they are."""
    image = {"driver": "null-co", "size": 1 << 20}
    target = {"driver": "file", "filename": d.file("temp.raw")}
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "q.qcow2", "1M")
    file = {"driver": "file", "filename": d.path("q.qcow2")}
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("disk.raw"))
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="f", target=target)
    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="c")
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file, detect_zeroes="on")
    for node, align in (("b", 512), ("large", 4096)):
        d.qmp(
            "blockdev-add",
            driver="blkdebug",
            node_name=node,
            image=image,
            align=align,
            inject_error=[{"event": "none", "errno": 28}],
        )
    d.nbd_server()
    for node in ("c", "s", "q", "b", "large"):
        d.qmp("nbd-server-add", device=node, writable=True)
        for structured in (True, False):
            client = d.nbd(None)
            client.go(node, structured=structured)
            for offset in (0, 512, 1000, 1 << 20):
                for flags in (0, FUA):
                    for command in (WRITE, ZEROES, TRIM):
                        client.request(command, offset, 0, flags=flags)
                client.request(READ, offset, 0)
    d.content("temp.raw")


@scenario
def reads_of_nothing_where_no_snapshot_can_be_read(d: Session) -> None:
    """A broken one has nothing of nothing, too; only where there is none, that is told."""
    failing_target(d, **{"on-cbw-error": "break-snapshot"})
    d.io("guest", "write -P 0xaa 0 64k")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="none", file="temp")
    d.qmp("block-export-add", type="nbd", id="none", node_name="none")
    for name in ("snapshot", "none"):
        for structured in (True, False):
            client = d.nbd(None)
            client.go(name, structured=structured)
            for offset in (0, 1000, 1 << 19, 1 << 20):
                client.request(READ, offset, 0)
            client.request(READ, 0, 512, flags=4 if structured else 0)
            client.shut_down()
            client.end()


@scenario
def zeroes_in_the_last_sector(d: Session) -> None:
    """A file that ends within a sector is read, and may be zeroed, up to the sector's end."""
    d.nbd_server()
    number = 0
    for flags in (0, NO_HOLE):
        for offset, length in ((0, 100_001), (99_900, 200), (100_100, 252), (99_000, 500)):
            name = f"f{number}"
            number += 1
            path = d.file(name, 100_000, (1, 0, 99_999))
            d.qmp("blockdev-add", driver="file", node_name=name, filename=path, discard="unmap")
            d.qmp("nbd-server-add", device=name, writable=True)
            client = d.nbd(name)
            client.request(ZEROES, offset, length, flags=flags)
            client.request(READ, 99_990, 362)
            d.content(name)


@scenario
def reads_that_fail(d: Session) -> None:
    """With holes told or not, and where the protocol has no holes."""
    error = {"event": "none", "iotype": "read", "errno": 5}
    image = {"driver": "null-co", "size": 1 << 20}
    d.qmp("blockdev-add", driver="blkdebug", node_name="b", image=image, inject_error=[error])
    d.nbd_server()
    d.qmp("nbd-server-add", device="b", writable=True)
    client = d.nbd("b")
    client.request(READ, 0, 4096, flags=4)
    client.request(WRITE, 0, 4, data=b"abcd")
    client.request(READ, 0, 4096)
    client = d.nbd(None)
    client.go("b", structured=False)
    client.request(READ, 0, 4096)
    client.request(WRITE, 0, 4, data=b"abcd")


@scenario
def cache_of_what_a_backing_file_has(d: Session) -> None:
    d.file("base.raw", 1 << 18, (1, 0, 1 << 18))
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "q.qcow2")
    file = {"driver": "file", "filename": d.path("q.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    target = {"driver": "null-co", "size": 1 << 18}
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="q", target=target)
    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="c")
    d.nbd_server()
    for node in ("s", "q"):
        d.qmp("nbd-server-add", device=node)
        client = d.nbd(node)
        client.request(CACHE, 0, 64 << 10)
        client.request(CACHE, 0, 0)
        client.request(DISC)
        client.end()
    d.finish()
    d.tool("qemu-img", "map", "--output=json", "q.qcow2")


@scenario
def snapshot_read_across_the_end_of_what_is_saved(d: Session) -> None:
    size = 1 << 18
    path = d.file("disk.raw", size, (6, 0, size))
    target = {"driver": "file", "filename": d.file("temp.raw", size)}
    d.qmp("blockdev-add", driver="file", node_name="f", filename=path)
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="f", target=target)
    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="c")
    d.nbd_server()
    d.qmp("nbd-server-add", device="c", writable=True)
    d.qmp("nbd-server-add", device="s")
    d.nbd("c").request(WRITE, 100_000, 8192, data=b"\x01" * 8192)
    client = d.nbd(None)
    client.go("s", structured=False)
    for offset, end in ((0, 131_072), (65_536, 131_072), (131_072, size), (65_536, 131_584)):
        client.request(READ, offset, end - offset, simple_data=end - offset)


def _contexts_of_one_that_is_gone(d: Session, **export: Any) -> None:
    """Choose a bitmap of an export, which another one of its name replaces; enter that."""
    name = d.file("disk.raw", 1 << 20)
    d.qmp("blockdev-add", driver="file", node_name="f", filename=name)
    for bitmap in ("b1", "b2"):
        d.qmp("block-dirty-bitmap-add", node="f", name=bitmap, disabled=True)
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="f", name="e", bitmaps=["b1"])
    client = d.nbd(None).flags()
    client.option(STRUCTURED)
    client.option(SET_META, meta("e", "qemu:dirty-bitmap:b1"))
    # Another one in between: else QEMU may find the memory of the old one in the new one.
    d.qmp("block-export-add", type="nbd", id="o", node_name="f", name="o")
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("nbd-server-add", device="f", name="p")
    d.qmp("block-export-add", type="nbd", id="e", node_name="f", name="e", **export)
    client.option(GO, info("e"))
    client.request(BLOCK_STATUS, 0, 4096)
    client.request(DISC)
    client.end()
    d.qmp("nbd-server-stop")


@scenario
def contexts_of_an_export_that_is_gone(d: Session) -> None:
    _contexts_of_one_that_is_gone(d)


@scenario
def contexts_of_an_export_with_other_bitmaps_now(d: Session) -> None:
    _contexts_of_one_that_is_gone(d, bitmaps=["b2"])


@system_scenario
def clients_that_are_gone_make_room_for_others(d: Session) -> None:
    """Although what they have asked for still goes on."""
    d.start(*CONTROLLER, "-blockdev", "null-co,node-name=n,size=1048576,read-zeroes=on")
    d.qmp("blockdev-add", driver="blkdebug", node_name="b", image="n")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="b")
    d.qmp("device_add", driver="scsi-hd", id="sda", drive="r")
    d.nbd_server(max_connections=1)
    d.qmp("nbd-server-add", device="r", name="e")
    for leave in (NbdClient.close, NbdClient.shut_down, lambda client: client.post(DISC)):
        d.qmp("human-monitor-command", command_line='qemu-io -d sda "break read_aio A"')
        client = d.nbd("e")
        client.post(READ, 0, 512, flags=DF)
        d.qmp("human-monitor-command", command_line='qemu-io -d sda "wait_break A"')
        leave(client)
        other = d.nbd("e")
        other.request(READ, 0, 512)
        other.close()
        d.qmp("human-monitor-command", command_line='qemu-io -d sda "resume A"')
        client.close()
