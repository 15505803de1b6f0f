"""What can be done with a qcow2 image that was given up as corrupt while it was in use."""

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.blkdebug import ask
from tests.oracle.scenarios.devices import CONTROLLER, hmp
from tests.oracle.scenarios.qcow2_corruption import COPIED, DATA, L1, L2, patch, tell_features
from tests.oracle.scenarios.qemu_io_reopen import io
from tests.oracle.session import Session


def _given_up(d: Session, *, above: bool = False) -> bytes:
    """Let a guest find an image corrupt that has bitmaps; return what is in the file then.

    Its node is ``q``; with ``above`` there is a raw node ``r`` on it.
    """
    d.file("base.raw", 64 << 20)
    named = ("-b", "base.raw", "-F", "raw")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", *named, "a.qcow2", "64M")
    d.tool("qemu-io", "-c", "write 0 128k", "a.qcow2")
    for name in ("b", "c"):
        d.tool("qemu-img", "bitmap", "--add", "a.qcow2", name)
    patch(d, {L2: COPIED | DATA | 512})
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    d.qmp("block-dirty-bitmap-add", node="q", name="new", persistent=True)
    if above:
        d.qmp("blockdev-add", driver="raw", node_name="r", file="q")
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="q", name="x", writable=True)
    ask(d, "x", "write 1048576 65536", "write 0 512")
    d.qmp("query-jobs")  # all events have come before its reply
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    return (d.dir / "a.qcow2").read_bytes()


def _compare(d: Session, before: bytes) -> None:
    same = (d.dir / "a.qcow2").read_bytes() == before
    d.transcript.add(f"# the image is {'as it was' if same else 'another'}")


@scenario
def qcow2_given_up_keeps_its_bitmaps(d: Session) -> None:
    before = _given_up(d)
    d.qmp("block-dirty-bitmap-remove", node="q", name="b")
    d.qmp("block-dirty-bitmap-remove", node="q", name="new")
    remove = {"type": "block-dirty-bitmap-remove", "data": {"node": "q", "name": "c"}}
    d.qmp("transaction", actions=[remove, {"type": "abort", "data": {}}])
    d.qmp("block-dirty-bitmap-add", node="q", name="newer", persistent=True)
    d.qmp("block-dirty-bitmap-add", node="q", name="newer", granularity=256, persistent=True)
    d.qmp("block-dirty-bitmap-add", node="q", name="memory")
    d.qmp("block-dirty-bitmap-clear", node="q", name="c")
    _compare(d, before)
    d.qmp("blockdev-del", node_name="q")
    _compare(d, before)


@scenario
def qcow2_given_up_keeps_the_name_of_its_backing_file(d: Session) -> None:
    before = _given_up(d)
    d.qmp("change-backing-file", device="q", image_node_name="q", backing_file="other")
    d.qmp("block_resize", node_name="q", size=32 << 20)
    d.qmp("blockdev-snapshot-internal-sync", device="q", name="s")
    _compare(d, before)
    d.qmp("blockdev-del", node_name="q")
    _compare(d, before)


@scenario
def qcow2_given_up_takes_no_snapshot_of_who_builds_on_it(d: Session) -> None:
    before = _given_up(d, above=True)
    for device in "rq":
        d.qmp("change-backing-file", device=device, image_node_name="q", backing_file="other")
        d.qmp("blockdev-snapshot-internal-sync", device=device, name="s")
        d.qmp("blockdev-snapshot-delete-internal-sync", device=device, name="s")
        d.qmp("block-dirty-bitmap-add", node=device, name="more", persistent=True)
    d.qmp("block_resize", node_name="r", size=32 << 20)
    _compare(d, before)
    d.qmp("blockdev-del", node_name="r")
    d.qmp("blockdev-del", node_name="q")
    _compare(d, before)


@system_scenario
def qcow2_damage_is_told_with_the_name_of_the_drive(d: Session) -> None:
    """A backing file has none."""
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "64M")
    d.tool("qemu-io", "-c", "write 0 128k", "a.qcow2")
    patch(d, {L1: COPIED | L2 | 512})
    (d.dir / "b.qcow2").write_bytes((d.dir / "a.qcow2").read_bytes())
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "c.qcow2")
    drives = {"d0": "a.qcow2", "d1": "c.qcow2"}
    options = (f"if=none,id={k},file={d.path(v)},format=qcow2" for k, v in drives.items())
    d.start(*(word for option in options for word in ("-drive", option)))
    for drive in drives:
        io(d, drive, "read 0 512")


def _lead_to_the_l1_table(d: Session) -> None:
    """Let the first cluster of ``a.qcow2`` be its L1 table, wherever that is."""
    whole = (d.dir / "a.qcow2").read_bytes()
    l1 = int.from_bytes(whole[40:48], "big")
    l2 = int.from_bytes(whole[l1 : l1 + 8], "big") & ~COPIED
    patch(d, {l2: COPIED | l1})


@scenario
def qcow2_given_up_takes_no_commands(d: Session) -> None:
    """What each command says of an image that was found corrupt while it was used."""
    d.nbd_server()
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "64M")
    d.tool("qemu-img", "snapshot", "-c", "s", "a.qcow2")
    d.tool("qemu-img", "bitmap", "--add", "a.qcow2", "old")
    d.tool("qemu-io", "-c", "write 0 128k", "a.qcow2")
    _lead_to_the_l1_table(d)
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    options = {"driver": "qcow2", "node-name": "q", "file": file}
    d.qmp("blockdev-add", **options)
    d.qmp("block-dirty-bitmap-add", node="q", name="plain")
    d.qmp("block-export-add", id="e", type="nbd", node_name="q", name="x", writable=True)
    ask(d, "x", "write 0 512", "write 65536 512", "read 65536 512", "flush")
    ask(d, "x", "zero 0 65536", "discard 0 65536")
    for persistent in (False, True):
        d.qmp("block-dirty-bitmap-add", node="q", name=f"new{persistent}", persistent=persistent)
    for name in ("old", "plain", "newFalse", "newTrue"):
        d.qmp("block-dirty-bitmap-clear", node="q", name=name)
        d.qmp("block-dirty-bitmap-disable", node="q", name=name)
        d.qmp("block-dirty-bitmap-merge", node="q", target=name, bitmaps=["old"])
        d.qmp("block-dirty-bitmap-remove", node="q", name=name)
    d.qmp("blockdev-snapshot-internal-sync", device="q", name="t")
    d.qmp("blockdev-snapshot-delete-internal-sync", device="q", name="s")
    d.qmp("blockdev-snapshot-delete-internal-sync", device="q", name="t")
    d.qmp("block-export-del", id="e", mode="hard")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("block_resize", node_name="q", size=32 << 20)
    d.qmp("block_resize", node_name="q", size=128 << 20)
    d.qmp("block-export-add", id="e", type="nbd", node_name="q", name="x", writable=True)
    d.qmp("query-named-block-nodes", flat=True)
    d.qmp("blockdev-add", driver="file", node_name="t", filename=d.file("t.raw", 64 << 20))
    d.qmp("blockdev-backup", job_id="j", device="q", target="t", sync="full")
    d.qmp("blockdev-backup", job_id="j", device="t", target="q", sync="full")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="q", target="t")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="q")
    d.qmp("block-export-add", id="r", type="nbd", node_name="r", name="r", writable=True)
    d.qmp("query-jobs")
    d.qmp("blockdev-del", node_name="q")
    tell_features(d)


@scenario
def qcow2_given_up_below_other_nodes(d: Session) -> None:
    """What commands say of nodes that were put above an image before it was found corrupt."""
    d.nbd_server()
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "4M")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "o.qcow2", "4M")
    d.tool("qemu-io", "-c", "write 0 128k", "a.qcow2")
    _lead_to_the_l1_table(d)
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    d.qmp("object-add", qom_type="throttle-group", id="g")
    d.qmp("blockdev-add", driver="raw", node_name="raw", file="q")
    d.qmp("blockdev-add", driver="throttle", node_name="throttle", throttle_group="g", file="q")
    above = {"driver": "file", "filename": d.path("o.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="overlay", file=above, backing="q")
    d.qmp("blockdev-add", driver="raw", node_name="unmap", file="raw", discard="unmap")
    names = ("raw", "throttle", "overlay", "unmap")
    for name in names:
        more = {"writable": name in {"raw", "unmap"}}
        d.qmp("block-export-add", id=name, type="nbd", node_name=name, name=name, **more)
    ask(d, "raw", "write 0 512")
    d.event("BLOCK_IMAGE_CORRUPTED")
    ask(d, "raw", "discard 0 65536")
    ask(d, "unmap", "discard 0 65536", "zero 0 65536", "flush")
    ask(d, "overlay", "read 0 512")
    for name in names:
        d.qmp("block-export-del", id=name, mode="hard")
        d.event("BLOCK_EXPORT_DELETED")
    d.qmp("blockdev-add", driver="file", node_name="t", filename=d.file("t.raw", 4 << 20))
    d.qmp("query-named-block-nodes", flat=True)
    for name in ("throttle", "overlay"):
        for persistent in (False, True):
            given = {"name": f"b{persistent}", "persistent": persistent}
            d.qmp("block-dirty-bitmap-add", node=name, **given)
    for name in names:
        d.qmp("block-export-add", id="e", type="nbd", node_name=name, name="e")
        d.qmp("blockdev-backup", job_id="j", device=name, target="t", sync="none")
        d.qmp("blockdev-backup", job_id="j", device="t", target=name, sync="none")
        d.qmp("query-jobs")
        d.qmp("query-block-exports")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="overlay")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="overlay", target="t")


@system_scenario
def qcow2_given_up_is_listed_as_not_inserted(d: Session) -> None:
    """The other disks are told as ever."""
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1G")
    d.tool("qemu-io", "-c", "write 512M 128k", "a.qcow2")
    patch(d, {L1 + 8: COPIED | L2 | 512})
    (d.dir / "c.qcow2").write_bytes((d.dir / "a.qcow2").read_bytes())
    options = {"a": f"{d.path('a.qcow2')},format=qcow2", "b": f"{d.file('raw')},format=raw"}
    words = [w for k, v in options.items() for w in ("-drive", f"if=none,id={k},file={v}")]
    d.start(*CONTROLLER, *words)
    file = {"driver": "file", "filename": d.path("c.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="c", file=file)
    d.qmp("device_add", driver="scsi-hd", id="dev", drive="c")
    for name in "ca":
        io(d, name, "read 512M 512")
        d.qmp("query-block")
        hmp(d, "info block", "info block -v", "info block a", "info block -n")
        d.qmp("query-named-block-nodes")
        d.qmp("query-named-block-nodes", flat=True)
    d.qmp("device_add", driver="scsi-hd", id="late", drive="a")


@system_scenario
def qcow2_whose_backing_file_was_given_up_is_not_told(d: Session) -> None:
    """Nor is any other disk; the human monitor says nothing at all."""
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1G")
    d.tool("qemu-io", "-c", "write 512M 128k", "a.qcow2")
    patch(d, {L1 + 8: COPIED | L2 | 512})
    for name in "bc":
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", "1G")
    d.start(*CONTROLLER, "-drive", f"if=none,id=raw,file={d.file('raw')},format=raw")
    for name, more in (("a", {}), ("b", {"backing": "a"}), ("c", {"backing": "a"})):
        file = {"driver": "file", "filename": d.path(f"{name}.qcow2")}
        d.qmp("blockdev-add", driver="qcow2", node_name=name, file=file, **more)
    d.qmp("device_add", driver="scsi-hd", id="dev", drive="b")
    io(d, "b", "read 512M 512")
    d.qmp("device_add", driver="scsi-hd", id="late", drive="c")
    d.qmp("query-block")
    hmp(d, "info block", "info block -v raw", "info block -n", "info block -n b")
    d.qmp("query-named-block-nodes", flat=True)
