"""Which events of blkdebug a qcow2 image announces: an error for each shows where it is met."""

from typing import Final, get_args

from qmpfleece.block.drivers.blkdebug.rules import BlkdebugEvent
from tests.oracle.scenario import long, scenario
from tests.oracle.scenarios.blkdebug import ask, rule
from tests.oracle.session import Session

_EVENTS: Final = tuple(event for event in get_args(BlkdebugEvent) if event != "none")


def each_event(d: Session, *commands: str, events: tuple[str, ...] = _EVENTS) -> None:
    """Send the requests once for every event, the first request after which fails."""
    d.nbd_server()
    whole = (d.dir / "a.qcow2").read_bytes()
    for event in events:
        (d.dir / "a.qcow2").write_bytes(whole)
        file = {"driver": "file", "filename": d.path("a.qcow2")}
        error = rule(event, errno=28, once=True)
        bad = {"driver": "blkdebug", "image": file, "inject-error": [error]}
        before = len(d.transcript.entries)
        if d.qmp("blockdev-add", driver="qcow2", node_name="q", file=bad, discard="unmap") is None:
            continue
        d.qmp("block-export-add", id="e", type="nbd", node_name="q", name="x", writable=True)
        ask(d, "x", *commands)
        d.qmp("block-export-del", id="e")
        d.event("BLOCK_EXPORT_DELETED")
        d.qmp("blockdev-del", node_name="q")
        met = _failed(d, before, commands)
        del d.transcript.entries[before:]
        d.transcript.add(f"# {event}: {met}")


def _failed(d: Session, since: int, commands: tuple[str, ...]) -> str:
    """Return which requests failed."""
    answers = [item.text for item in d.transcript.entries[since:] if "simple error" in item.text]
    found = []
    for number, answer in enumerate(answers):
        if "error 0 " not in answer:
            found.append(f"request {number}, {commands[number]}")
    return "; ".join(found) or "-"


@scenario
def qcow2_events_of_guest_requests(d: Session) -> None:
    d.file("base.raw", 1 << 20, (0x11, 0, 1 << 20))
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "a.qcow2")
    d.tool("qemu-io", "-c", "write 0 64k", "-c", "write -c 128k 64k", "a.qcow2")
    each_event(
        d,
        "read 0 512",
        "read 131072 512",
        "read 65536 512",
        "write 0 512",
        "write 65536 512",
        "flush",
        "write 131072 512",
        "zero 262144 65536",
        "discard 0 65536",
        "flush",
        "write 0 65536",
        "flush",
    )


@scenario
def qcow2_events_of_a_new_table(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1G")
    each_event(d, "write 0 65536", "write 629145600 65536", "flush")


@scenario
def qcow2_events_of_a_shared_table(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    d.tool("qemu-io", "-c", "write 0 128k", "a.qcow2")
    d.tool("qemu-img", "snapshot", "-c", "s", "a.qcow2")
    each_event(d, "write 0 512", "flush", "write 65536 65536", "flush")


@long
@scenario
def qcow2_events_of_growing_refcounts(d: Session) -> None:
    options = ("-o", "cluster_size=512,refcount_bits=64")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", *options, "a.qcow2", "4M")
    each_event(d, "write 0 65536", "flush", "write 1048576 2097152", "flush", "read 0 512")
