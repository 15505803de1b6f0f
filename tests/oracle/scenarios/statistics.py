"""What is counted of disks and nodes, and the threshold of writes."""

from typing import Any

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.blkdebug import rule
from tests.oracle.scenarios.devices import CONTROLLER, disk, hmp, null
from tests.oracle.session import Session


def _start(d: Session) -> None:
    path = d.file("disk.raw")
    d.start(*CONTROLLER)
    d.qmp("blockdev-add", driver="file", node_name="f", filename=path, discard="unmap")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f", discard="unmap")
    disk(d, "sda", "r")


def _io(d: Session, *commands: str, device: str = "sda") -> None:
    hmp(d, *(f'qemu-io -d {device} "{command}"' for command in commands))


def _tell(d: Session) -> None:
    d.qmp("query-blockstats")
    d.qmp("query-blockstats", query_nodes=True)


@system_scenario
def statistics_of_requests_that_end_well(d: Session) -> None:
    _start(d)
    _io(d, "read 0 64k", "write 0 4k", "write 64k 4k", "write 0 4k", "flush", "discard 512k 64k")
    _tell(d)
    _io(d, "write -z 200k 4k")
    _tell(d)
    for command in ("aio_read 0 4k", "aio_read 0 1k 2k", "aio_write 128k 4k", "aio_write -z 0 8k"):
        _io(d, command, "aio_flush")
    _tell(d)
    _io(d, "aio_write -zu 1020k 4k", "aio_flush", "discard 0 4k", "write 0 0")
    _tell(d)


@system_scenario
def statistics_of_requests_that_fail(d: Session) -> None:
    d.file("disk.raw")
    d.start(*CONTROLLER)
    errors = [rule("read_aio", errno=5), rule("write_aio", errno=28)]
    file = {"driver": "file", "filename": d.path("disk.raw")}
    for number, error in enumerate(errors):
        bad = {"driver": "blkdebug", "image": file, "inject-error": [error]}
        d.qmp("blockdev-add", driver="raw", node_name=f"n{number}", file=bad)
        disk(d, f"sd{number}", f"n{number}")
        for command in ("aio_read 0 4k", "aio_write 64k 4k", "aio_read 2M 4k", "aio_write 2M 4k"):
            _io(d, command, "aio_flush", device=f"sd{number}")
        for command in ("read 0 4k", "write 512k 4k"):
            _io(d, command, device=f"sd{number}")
        _tell(d)


@system_scenario
def statistics_of_requests_that_are_refused(d: Session) -> None:
    _start(d)
    for command in (
        "aio_read -i 0 4k",
        "aio_write -i 0 4k",
        "aio_read 0 x",
        "aio_read x 4k",
        "aio_read 0 4k x",
        "aio_write 0 x",
        "aio_write -z 0 x",
        "aio_write -z 0 4k 4k",
        "aio_read -P x 0 4k",
        "aio_write 0 99G",
        "readv 0 99G",
        "read 0 99G",
        "write 0 99G",
    ):
        _io(d, command, "aio_flush")
    _tell(d)


@system_scenario
def statistics_of_an_empty_drive(d: Session) -> None:
    d.start(*CONTROLLER)
    d.qmp("device_add", driver="scsi-cd", id="cd")
    _io(d, "aio_read 0 4k", "aio_flush", device="cd")
    _tell(d)


@system_scenario
def statistics_of_images_and_filters(d: Session) -> None:
    d.start(*CONTROLLER)
    base = d.file("base.raw", 1 << 20, (0x11, 0, 1 << 20))
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", "a.qcow2")
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    null(d, "t")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="q", target="t")
    disk(d, "sda", "c")
    _io(d, "write 0 64k", "write 300k 1k", "flush")
    _tell(d)
    _io(d, "aio_write 640k 1k", "aio_flush")
    _tell(d)


@system_scenario
def statistics_stay_with_the_disk(d: Session) -> None:
    _start(d)
    null(d, "n")
    _io(d, "aio_write 0 4k", "aio_flush")
    d.qmp("qom-set", path="sda", property="drive", value="n")
    _io(d, "aio_write 64k 4k", "aio_flush")
    _tell(d)


@scenario
def statistics_of_exports(d: Session) -> None:
    path = d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="f", filename=path, discard="unmap")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f", discard="unmap")
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="r", name="x", writable=True)
    d.io("x", "write 0 64k", "write -z 128k 64k", "discard 512k 64k", "read 768k 64k", "flush")
    _tell(d)


def _threshold(d: Session, node: str, offset: Any) -> None:
    d.qmp("block-set-write-threshold", node_name=node, write_threshold=offset)


@scenario
def threshold_refused(d: Session) -> None:
    null(d, "n")
    d.qmp("block-set-write-threshold", node_name="n")
    d.qmp("block-set-write-threshold", write_threshold=5)
    _threshold(d, "nope", 5)
    for offset in ("5", 1.5, 1 << 64, -1, (1 << 64) - 1, 1 << 62, 0):
        _threshold(d, "n", offset)
    for offset in (-1, 1 << 63, (1 << 63) - 1):  # shown as if they had a sign
        _threshold(d, "n", offset)
        d.qmp("query-named-block-nodes")
    _threshold(d, "n", 5)
    d.qmp("query-named-block-nodes")


@system_scenario
def threshold_is_told_once(d: Session) -> None:
    _start(d)
    null(d, "empty")
    _threshold(d, "sda", 1000)
    _threshold(d, "r", 1000)
    d.qmp("query-block")
    _io(d, "read 0 64k", "write 0 512", "write 488 512")
    _io(d, "write 512 512", "write 512 512")
    d.qmp("query-block")
    for command in ("write -z 0 64k", "discard 0 64k", "aio_write 0 64k", "write 500 501"):
        _threshold(d, "r", 1000)
        _io(d, command, "aio_flush")
    _threshold(d, "r", 1000)
    _threshold(d, "f", 1000)
    _io(d, "write 64k 64k")
    _threshold(d, "r", 1000)
    _threshold(d, "r", 0)
    _io(d, "write 64k 64k")


@system_scenario
def threshold_below_an_image(d: Session) -> None:
    d.start(*CONTROLLER)
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.path("a.qcow2"))
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file="f")
    disk(d, "sda", "q")
    _threshold(d, "f", 400000)
    _io(d, "write 0 64k", "write 64k 64k", "write 128k 64k", "flush")
    d.qmp("query-named-block-nodes")


@system_scenario
def threshold_outlives_reopening(d: Session) -> None:
    _start(d)
    _threshold(d, "r", 1000)
    _threshold(d, "f", 5000)
    options = {"driver": "raw", "node-name": "r", "file": "f", "discard": "unmap"}
    d.qmp("blockdev-reopen", options=[options])
    d.qmp("query-named-block-nodes")
    d.qmp("block_resize", node_name="r", size=2 << 20)
    _io(d, "write 0 2k")
