"""Snapshots inside of qcow2 images: taken and deleted by command."""

import signal
from typing import Any

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.devices import CONTROLLER, disk, hmp, null
from tests.oracle.session import Session


def _open(d: Session, name: str, *words: str, node: str = "q", size: str = "1M") -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", *words, name, size)
    file = {"driver": "file", "filename": d.path(name)}
    d.qmp("blockdev-add", driver="qcow2", node_name=node, file=file)


def _take(d: Session, device: str, name: str) -> None:
    d.qmp("blockdev-snapshot-internal-sync", device=device, name=name)


def _delete(d: Session, device: str, **which: str) -> None:
    d.qmp("blockdev-snapshot-delete-internal-sync", device=device, **which)


def _look(d: Session, name: str) -> None:
    d.tool("qemu-img", "snapshot", "-l", name)
    d.tool("qemu-img", "check", name)


@scenario
def internal_snapshot_refused(d: Session) -> None:
    _open(d, "a.qcow2")
    _open(d, "d.qcow2", "-o", "data_file=d.raw", node="w")
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("r.raw"))
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f")
    null(d, "n")
    for device in ("nope", "n", "f", "r", "w"):
        _take(d, device, "s")
        _delete(d, device, name="s")
    for name in ("", "s1", "s1", "1", "x" * 254, "x" * 300):
        _take(d, "q", name)
    _delete(d, "q")
    for which in (
        {"name": ""},
        {"id": ""},
        {"name": "zz"},
        {"id": "zz", "name": "yy"},
        {"id": "1", "name": "yy"},
        {"id": "99", "name": "s1"},
        {"id": "1", "name": "s1"},
        {"id": "2"},
    ):
        _delete(d, "q", **which)
    d.qmp("blockdev-del", node_name="q")
    _look(d, "a.qcow2")
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file, read_only=True)
    _take(d, "q", "s")
    _take(d, "q", "")
    d.qmp("blockdev-del", node_name="q")
    for bits in (1, 2):  # and so many references
        _open(d, f"{bits}.qcow2", "-o", f"refcount_bits={bits},preallocation=metadata", node="q")
        for name in ("one", "two", "three"):
            _take(d, "q", name)
        d.qmp("blockdev-del", node_name="q")
        d.tool("qemu-img", "snapshot", "-l", f"{bits}.qcow2")
    d.qmp("blockdev-add", driver="null-co", node_name="ro", read_only=True)
    _take(d, "ro", "s")


@scenario
def internal_snapshot_while_in_use(d: Session) -> None:
    _open(d, "a.qcow2")
    null(d, "t")
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="q", name="x", writable=True)
    d.io("x", "write -P 1 0 128k")
    _take(d, "q", "one")
    d.io("x", "write -P 2 64k 128k", "discard 0 64k")
    _take(d, "q", "two")
    d.io("x", "write -P 3 0 1M")
    _delete(d, "q", name="one")
    d.io("x", "read -P 3 0 1M", "write -P 4 0 64k")
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="q")
    _take(d, "q", "three")
    _take(d, "r", "three")
    _delete(d, "r", name="three")
    d.qmp("blockdev-del", node_name="r")
    d.qmp("blockdev-del", node_name="q")
    _look(d, "a.qcow2")
    d.tool("qemu-img", "convert", "-l", "two", "-O", "raw", "a.qcow2", "two.raw")
    d.content("two.raw")
    d.tool("qemu-img", "convert", "-O", "raw", "a.qcow2", "now.raw")
    d.content("now.raw")


@scenario
def internal_snapshot_of_many_layouts(d: Session) -> None:
    d.nbd_server()
    for number, layout in enumerate(
        (
            "compat=0.10",
            "refcount_bits=64",
            "extended_l2=on",
            "cluster_size=512",
            "cluster_size=2M",
            "lazy_refcounts=on",
        )
    ):
        name = f"{number}.qcow2"
        _open(d, name, "-o", layout)
        d.qmp("block-export-add", id="e", type="nbd", node_name="q", name="x", writable=True)
        d.io("x", "write -P 1 100k 200k")
        for snapshot in ("one", "two", "three"):
            _take(d, "q", snapshot)
            d.io("x", "write -P 2 200k 1k")
        _delete(d, "q", name="two")
        d.io("x", "read -P 1 100k 100k", "read -P 2 200k 1k", "read -P 1 201k 99k")
        d.qmp("block-export-del", id="e")
        d.event("BLOCK_EXPORT_DELETED")
        d.qmp("blockdev-del", node_name="q")
        _look(d, name)


@scenario
def internal_snapshots_in_transactions(d: Session) -> None:
    _open(d, "a.qcow2")
    _open(d, "b.qcow2", node="p")

    def run(*actions: tuple[str, dict[str, Any]]) -> None:
        d.qmp("transaction", actions=[{"type": kind, "data": data} for kind, data in actions])

    def take(device: str, name: str) -> tuple[str, dict[str, Any]]:
        return "blockdev-snapshot-internal-sync", {"device": device, "name": name}

    run(take("q", "t1"), take("p", "t1"))
    run(take("q", "t2"), take("p", "t1"))
    run(take("q", "t3"), ("abort", {}))
    run(take("q", "t4"), take("q", "t4"))
    run(take("q", "t5"), take("q", "t6"))
    add = {"node": "q", "name": "b", "persistent": True}
    run(("block-dirty-bitmap-add", add), take("q", "t7"))
    for node, name in (("q", "a.qcow2"), ("p", "b.qcow2")):
        d.qmp("blockdev-del", node_name=node)
        _look(d, name)


def _failing(event: str, number: int) -> dict[str, Any]:
    """Return blkdebug's rules for all writes after an event has happened so often to fail."""
    return {
        "set-state": [{"event": event, "state": n, "new_state": n + 1} for n in range(1, number)],
        "inject-error": [{"event": event, "state": number, "errno": 5, "iotype": "write"}],
    }


@scenario
def internal_snapshot_that_cannot_be_deleted_again(d: Session) -> None:
    """What other actions have done is undone all the same."""
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    image = {"driver": "file", "filename": d.path("a.qcow2")}
    rules = _failing("refblock_update_part", 3)
    file = {"driver": "blkdebug", "node-name": "d", "image": image, **rules}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    null(d, "n")
    d.qmp("block-dirty-bitmap-add", node="n", name="b")
    actions = [
        {"type": "block-dirty-bitmap-disable", "data": {"node": "n", "name": "b"}},
        {"type": "block-dirty-bitmap-add", "data": {"node": "n", "name": "c"}},
        {"type": "blockdev-snapshot-internal-sync", "data": {"device": "q", "name": "s"}},
        {"type": "abort", "data": {}},
    ]
    d.qmp("transaction", actions=actions)
    for name in ("b", "c"):
        d.qmp("block-dirty-bitmap-enable", node="n", name=name)
    d.kill(signal.SIGKILL)  # what is written at the end is another matter


@system_scenario
def internal_snapshot_of_a_drive_that_cannot_be_deleted_again(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    rules = ",".join(
        f"file.{kind}.{number}.{name}={value}"
        for kind, listed in _failing("refblock_update_part", 3).items()
        for number, rule in enumerate(listed)
        for name, value in rule.items()
    )
    image = f"file.driver=blkdebug,file.image.filename={d.path('a.qcow2')}"
    d.start("-drive", f"if=none,id=dr,driver=qcow2,{image},{rules}")
    actions = [
        {"type": "blockdev-snapshot-internal-sync", "data": {"device": "dr", "name": "s"}},
        {"type": "abort", "data": {}},
    ]
    d.qmp("transaction", actions=actions)
    d.kill(signal.SIGKILL)


@scenario
def internal_snapshot_that_cannot_be_deleted(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    d.tool("qemu-img", "snapshot", "-c", "s", "a.qcow2")
    image = {"driver": "file", "filename": d.path("a.qcow2")}
    rule = {"event": "refblock_update_part", "iotype": "write", "errno": 5}
    file = {"driver": "blkdebug", "image": image, "inject-error": [rule]}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    for _ in range(2):
        _delete(d, "q", name="s")
    d.kill(signal.SIGKILL)


@system_scenario
def internal_snapshot_of_a_disk(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    drive = f"if=none,id=dr,file={d.path('a.qcow2')},format=qcow2"
    d.start(*CONTROLLER, "-drive", drive, "-drive", "if=none,id=empty")
    disk(d, "sda", "dr")
    hmp(d, 'qemu-io -d sda "write -P 1 0 64k"')
    for device in ("dr", "sda", "empty"):
        _take(d, device, "s")
    hmp(d, 'qemu-io -d sda "write -P 2 0 64k"')
    _delete(d, "dr", name="s")
    _take(d, "dr", "t")
    d.tool("qemu-img", "snapshot", "-U", "-l", "a.qcow2")


@scenario
def internal_snapshot_of_what_is_referred_to_once_at_most(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "refcount_bits=1", "a.qcow2", "1M")
    d.tool("qemu-io", "-c", "write -q -P 1 0 64k", "a.qcow2")
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    for _ in range(2):
        _take(d, "q", "s")
        nodes = d.qmp("query-named-block-nodes", flat=True)
        d.transcript.entries.pop()  # QEMU's leaves clusters behind
        d.transcript.add(f"# dirty: {[node['image']['dirty-flag'] for node in nodes]}")


@scenario
def internal_snapshots_with_members_that_are_not_known(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    d.tool("qemu-img", "snapshot", "-c", "one", "a.qcow2")
    path = d.dir / "a.qcow2"
    image = bytearray(path.read_bytes())
    at = int.from_bytes(image[64:72], "big")  # where the table lies
    image[at + 36 : at + 40] = (40).to_bytes(4, "big")  # of which 24 bytes are known
    image[at + 64 : at + 84] = b"unknown, 16bytes1one"
    path.write_bytes(image)
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    d.qmp("query-named-block-nodes", flat=True)
    _take(d, "q", "two")
    d.qmp("blockdev-del", node_name="q")
    image = bytearray(path.read_bytes())
    at = int.from_bytes(image[64:72], "big")
    d.transcript.add(f"# {bytes(image[at + 36 : at + 40])!r} {bytes(image[at + 64 : at + 84])!r}")
    _look(d, "a.qcow2")


@scenario
def internal_snapshot_of_an_empty_disk(d: Session) -> None:
    """Its L1 table has no entries, and so no place."""
    _open(d, "a.qcow2", size="0")
    _take(d, "q", "ours")
    d.qmp("blockdev-del", node_name="q")
    d.tool("qemu-img", "snapshot", "-c", "theirs", "a.qcow2")
    _look(d, "a.qcow2")
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    _delete(d, "q", name="theirs")
    _delete(d, "q", name="ours")
    d.nbd_server()
    d.qmp("block_resize", node_name="q", size=1 << 20)
    d.qmp("block-export-add", id="e", type="nbd", node_name="q", name="x", writable=True)
    d.io("x", "write -P 1 0 128k")
    _take(d, "q", "full")
    d.io("x", "write -P 2 64k 128k")
    _delete(d, "q", name="full")
    d.io("x", "read -P 1 0 64k", "read -P 2 64k 128k")
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("blockdev-del", node_name="q")
    _look(d, "a.qcow2")


@scenario
def internal_snapshot_numbered_after_odd_ids(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    d.tool("qemu-img", "snapshot", "-c", "s", "a.qcow2")
    whole = (d.dir / "a.qcow2").read_bytes()
    table = int.from_bytes(whole[64:72], "big")
    fixed = bytearray(whole[table : table + 64])  # with its extra data
    for ident in ("12abc", " 7", "+5", "-3", "0x10", "abc", "", f"{2**64 - 2}", "9" * 5000):
        d.transcript.add(f"# after {ident[:40]!r}")
        fixed[12:14] = len(ident).to_bytes(2, "big")
        with (d.dir / "a.qcow2").open("r+b") as image:
            image.write(whole)
            image.seek(table)
            image.write(fixed + ident.encode() + b"s")
        file = {"driver": "file", "filename": d.path("a.qcow2")}
        d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
        _take(d, "q", "new")
        d.qmp("blockdev-del", node_name="q")
        d.tool("qemu-img", "snapshot", "-l", "a.qcow2")
