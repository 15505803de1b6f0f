"""What a qcow2 image gives back to its file, and when."""

import os
from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.blkdebug import ask
from tests.oracle.session import Session

_UNIT = 64 << 10


def occupied(d: Session, name: str = "a.qcow2") -> None:
    """Write down what a file occupies, in clusters; less than one is not for comparison."""
    blocks = (d.dir / name).stat().st_blocks * 512
    d.transcript.add(f"# {name} occupies {blocks // _UNIT} clusters")


def guest(d: Session, **options: Any) -> None:
    """Open the image for a guest."""
    file = {"driver": "file", "filename": d.path("a.qcow2"), "discard": "unmap"}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file, **options)
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="q", name="x", writable=True)


def requests(d: Session, *commands: str) -> None:
    """Send requests without a flush between them, and see what the file occupies."""
    client = d.nbd("x")
    for command in commands:
        verb, *numbers = command.split()
        offset, length = (int(number) << 10 for number in numbers)
        match verb:
            case "discard":
                client.request(4, offset, length)
            case "zero":
                client.request(6, offset, length)
            case "write":
                client.request(1, offset, length, data=b"\x77" * length)
            case "read":
                client.request(0, offset, length)
        occupied(d)
    client.request(3)
    occupied(d)
    client.close()


def end(d: Session) -> None:
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("nbd-server-stop")
    d.qmp("blockdev-del", node_name="q")
    occupied(d)
    d.tool("qemu-img", "check", "-q", "a.qcow2")


def image(d: Session, *options: str) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", *options, "a.qcow2", "16M")
    d.tool(
        "qemu-io", "-c", "write 0 4M", "-c", "write -c 8M 64k", "-c", "write -c 9M 1M", "a.qcow2"
    )
    occupied(d)


_ALL = (
    "discard 0 1024",
    "zero 1024 1024",
    "discard 8192 64",
    "discard 9216 1024",
    "write 2048 64",
)


@scenario
def qcow2_gives_back_what_is_discarded(d: Session) -> None:
    for unmap in ("unmap", "ignore"):
        image(d)
        guest(d, discard=unmap)
        requests(d, *_ALL)
        end(d)


@scenario
def qcow2_passes_on_discards_as_told(d: Session) -> None:
    for request in (True, False):
        for other in (True, False):
            image(d)
            passed = {"pass-discard-request": request, "pass-discard-other": other}
            guest(d, discard="unmap", **passed)
            requests(d, *_ALL)
            end(d)


@scenario
def qcow2_replaces_compressed_clusters(d: Session) -> None:
    for other in (True, False):
        image(d)
        guest(d, discard="unmap", pass_discard_other=other)
        requests(d, "write 8192 64", "write 9216 1024", "zero 9216 512")
        end(d)


@scenario
def qcow2_keeps_what_a_snapshot_has(d: Session) -> None:
    image(d)
    d.tool("qemu-img", "snapshot", "-c", "s", "a.qcow2")
    guest(d, discard="unmap")
    requests(d, "write 0 64", "discard 0 1024", "zero 1024 1024")
    end(d)


@scenario
def qcow2_gives_back_what_is_cut_off(d: Session) -> None:
    for options in ({}, {"discard": "unmap"}, {"discard": "unmap", "pass_discard_other": True}):
        image(d)
        guest(d, **options)
        d.qmp("block_resize", node_name="q", size=2 << 20)
        occupied(d)
        end(d)


_ON_DATA_FILE = (
    "write -P 7 0 1M",
    "write -z 64k 64k",
    "write -z -u 128k 64k",
    "discard 192k 64k",
    "write -z 258k 1k",  # in data
    "write -z -u 321k 62k",
    "write -z 66k 1k",  # in zeroes
    "write -z 1026k 1k",  # where nothing was written
    "write -z 1M 128k",
    "write -z 0 64k",
    "discard 0 64k",
    "write -z -u 64k 64k",
    "write -P 8 64k 128k",
    "write -z 960k 128k",
    "discard 512k 512k",
    "discard 0 2M",
    "write -z -u 2040k 9k",
)


@scenario
def qcow2_data_file_is_zeroed_and_discarded(d: Session) -> None:
    """A raw data file is what the guest sees, so it is zeroed as well as the entries."""
    for layout, options in (
        ("data_file_raw=on", {"discard": "unmap"}),
        ("data_file_raw=off", {"discard": "unmap"}),
        ("data_file_raw=on,extended_l2=on", {"discard": "unmap"}),
        ("data_file_raw=off,extended_l2=on", {"discard": "unmap"}),
        ("data_file_raw=on", {"discard": "unmap", "pass_discard_request": False}),
        ("data_file_raw=off", {"discard": "ignore"}),
    ):
        made = ("create", "-q", "-f", "qcow2", "-o", f"data_file=d.raw,{layout}")
        d.tool("qemu-img", *made, "a.qcow2", "2049k")
        guest(d, **options)
        for command in _ON_DATA_FILE:
            d.io("x", command)
            d.content("d.raw")
            occupied(d, "d.raw")
        end(d)
        (d.dir / "d.raw").unlink()


@scenario
def qcow2_uses_again_what_was_discarded_where_there_is_no_more_space(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "512k")
    with (d.dir / "a.qcow2").open("r+b") as image:
        image.truncate(1 << 20)
    below = {"driver": "file", "filename": d.path("a.qcow2"), "discard": "unmap"}
    file = {"driver": "raw", "size": 1 << 20, "file": below, "discard": "unmap"}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file, discard="unmap")
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="q", name="x", writable=True)
    requests(d, *("write 0 512", "discard 0 512") * 5)
    end(d)
    d.tool("qemu-img", "check", "-q", "a.qcow2")


@scenario
def qcow2_without_space_takes_what_was_discarded(d: Session) -> None:
    """The file can't grow: data and tables go where clusters have been given up."""
    options = ("-o", "cluster_size=4k")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", *options, "a.qcow2", "64M")
    os.truncate(d.dir / "a.qcow2", 1 << 20)
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    window = {"driver": "raw", "size": 1 << 20, "file": file}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=window)
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="q", name="x", writable=True)
    full = (f"write {offset} 65536" for offset in range(0, 1 << 20, 65536))
    ask(d, "x", *full, "discard 0 131072", "write 33554432 4096", "write 8388608 4096")
    ask(d, "x", "write 0 65536", "write 67104768 4096", "flush", "read 33554432 512")
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("blockdev-del", node_name="q")
