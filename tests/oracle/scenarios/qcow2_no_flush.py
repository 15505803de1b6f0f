"""Images whose flushes go no further than to the system (cache.no-flush)."""

import signal
from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.session import Session

_NO_FLUSH = {"no-flush": True}


def _image(d: Session, name: str, **more: Any) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", "16M")
    file = {"driver": "file", "filename": d.path(f"{name}.qcow2")}
    more = {"discard": "unmap", "cache": _NO_FLUSH, **more}
    d.qmp("blockdev-add", driver="qcow2", node_name=name, file=file, **more)


def _exported(d: Session, name: str = "q", **more: Any) -> None:
    _image(d, name, **more)
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name=name, writable=True)


def _look(d: Session, name: str = "q") -> None:
    """Write down what others find in an image that the daemon has open."""
    d.tool("qemu-img", "map", "-U", "--output=json", f"{name}.qcow2")


@scenario
def unsafe_flush_writes_what_was_allocated(d: Session) -> None:
    _exported(d)
    client = d.nbd("q")
    client.request(1, 0, 65536, data=b"a" * 65536)
    _look(d)
    client.request(3)
    _look(d)
    client.request(1, 1 << 20, 65536, flags=1, data=b"b" * 65536)
    _look(d)
    client.request(6, 2 << 20, 1 << 20, flags=1)
    _look(d)
    client.request(1, 8 << 20, 65536, data=b"c" * 65536)
    d.kill(signal.SIGKILL)
    _look(d)
    d.tool("qemu-img", "check", "q.qcow2")


@scenario
def unsafe_flush_writes_what_was_discarded(d: Session) -> None:
    _exported(d)
    client = d.nbd("q")
    client.request(1, 0, 1 << 20, data=b"a" * (1 << 20))
    client.request(3)
    client.request(4, 0, 131072)
    client.request(6, 262144, 131072)
    _look(d)
    client.request(3)
    _look(d)
    client.request(1, 4 << 20, 65536, data=b"b" * 65536)
    client.request(3)
    client.request(3)
    _look(d)
    d.kill(signal.SIGKILL)
    _look(d)


@scenario
def unsafe_flush_with_lazy_refcounts(d: Session) -> None:
    _exported(d, lazy_refcounts=True)
    client = d.nbd("q")
    client.request(1, 0, 65536, data=b"a" * 65536)
    client.request(3)
    _look(d)
    d.kill(signal.SIGKILL)
    _look(d)


@scenario
def unsafe_image_below_a_snapshot(d: Session) -> None:
    _exported(d)
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "q.qcow2", "-F", "qcow2", "o.qcow2")
    file = {"driver": "file", "filename": d.path("o.qcow2")}
    d.qmp(
        "blockdev-add",
        driver="qcow2",
        node_name="o",
        file=file,
        backing=None,
        cache=_NO_FLUSH,
    )
    client = d.nbd("q")
    client.request(1, 0, 65536, data=b"a" * 65536)
    d.qmp("blockdev-snapshot", node="q", overlay="o")
    _look(d)
    client.request(1, 1 << 20, 65536, data=b"b" * 65536)
    client.request(3)
    d.tool("qemu-img", "map", "-U", "--output=json", "o.qcow2")
    d.kill(signal.SIGKILL)
    d.tool("qemu-img", "map", "-U", "--output=json", "o.qcow2")


@scenario
def unsafe_target_of_a_backup(d: Session) -> None:
    _image(d, "t")
    filename = d.file("d.img", 16 << 20, (7, 0, 1 << 20), (8, 4 << 20, 1 << 20))
    d.qmp("blockdev-add", driver="file", node_name="d", filename=filename)
    d.qmp("blockdev-backup", job_id="j", device="d", target="t", sync="full", auto_dismiss=False)
    d.event('"concluded"')
    _look(d, "t")
    d.kill(signal.SIGKILL)
    _look(d, "t")


@scenario
def unsafe_image_with_an_internal_snapshot(d: Session) -> None:
    _exported(d)
    client = d.nbd("q")
    client.request(1, 0, 65536, data=b"a" * 65536)
    _look(d)
    d.qmp("blockdev-snapshot-internal-sync", device="q", name="s")
    _look(d)
    client.request(1, 0, 65536, data=b"b" * 65536)
    client.request(3)
    _look(d)
    d.kill(signal.SIGKILL)
    _look(d)
    d.tool("qemu-img", "convert", "-O", "raw", "-l", "s", "q.qcow2", "s.img")
    d.content("s.img")


@scenario
def unsafe_file_below_an_image_that_is_not(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "q.qcow2", "16M")
    d.qmp(
        "blockdev-add",
        driver="file",
        node_name="f",
        filename=d.path("q.qcow2"),
        cache=_NO_FLUSH,
    )
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file="f")
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="q", writable=True)
    client = d.nbd("q")
    client.request(1, 0, 65536, data=b"a" * 65536)
    client.request(3)
    _look(d)
    d.kill(signal.SIGKILL)
    _look(d)
