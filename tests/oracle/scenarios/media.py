"""Media that are changed: what the next one has of the last, what the device may do with it."""

from tests.oracle.scenario import Scenario, system_scenario
from tests.oracle.scenarios.devices import CONTROLLER
from tests.oracle.scenarios.qemu_io_reopen import io
from tests.oracle.session import Session


def modes(d: Session) -> None:
    """Show how the nodes are open."""
    nodes = d.qmp("query-named-block-nodes", flat=True) or []
    d.transcript.entries.pop()
    for node in nodes:
        how = f"ro {node['ro']}, zeroes {node['detect_zeroes']}, {node['cache']}"
        d.transcript.add(f"# {node['drv']}: {how}")


def changed(name: str, options: str) -> Scenario:
    """Make a scenario of a drive whose media are changed time and again."""

    def run(d: Session) -> None:
        for image in ("a", "b"):
            d.tool("qemu-img", "create", "-q", "-f", "qcow2", f"{image}.qcow2", "1M")
        d.start(*CONTROLLER, "-drive", f"if=none,id=cd,{options}")
        d.qmp("device_add", driver="scsi-cd", id="dev", drive="cd")
        for mode in (None, "retain", "read-write", "retain", "read-only", "retain"):
            more = {"read_only_mode": mode} if mode else {}
            d.qmp("eject", id="dev")
            d.qmp(
                "blockdev-change-medium",
                id="dev",
                filename=d.path("b.qcow2"),
                format="qcow2",
                **more,
            )
            modes(d)
        io(d, "cd", "write -q -P 0 0 128k")
        io(d, "cd", "discard -q 0 64k")
        io(d, "cd", "flush")
        d.tool("qemu-img", "map", "-U", "--output=json", "b.qcow2")
        d.qmp("blockdev-change-medium", id="dev", filename=d.path("a.qcow2"), format="qcow2")
        modes(d)

    run.__name__ = name
    return system_scenario(run)


changed("medium_changed_for_reading", "media=cdrom,file=a.qcow2")
changed("medium_changed_past_the_cache", "cache=none,file=a.qcow2")
changed("medium_changed_without_flushes", "cache=unsafe,file=a.qcow2")
changed("medium_changed_with_discards", "discard=unmap,file=a.qcow2")
changed("medium_changed_without_zeroes", "discard=unmap,detect-zeroes=unmap,file=a.qcow2")
changed("medium_comes_to_an_empty_drive", "cache.writeback=off")
changed("medium_comes_to_an_empty_drive_for_reading", "read-only=on")
changed("medium_comes_to_an_empty_drive_without_zeroes", "detect-zeroes=unmap")


def not_empty(name: str, option: str) -> Scenario:
    """Make a scenario of an option that wants a node, where there is none."""

    def run(d: Session) -> None:
        d.start("-drive", f"if=none,id=cd,{option}", monitor=False)
        d.exited()

    run.__name__ = name
    return system_scenario(run)


not_empty("empty_drive_with_cache", "cache=writeback")
not_empty("empty_drive_past_the_cache", "cache.direct=on")
not_empty("empty_drive_without_flushes", "cache.no-flush=off")
not_empty("empty_drive_with_discards", "discard=ignore")


@system_scenario
def medium_follows_nodes(d: Session) -> None:
    """Also of nodes it has what the last one had."""
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "b.qcow2", "1M")
    name = d.file("a.raw")
    file = {"driver": "file", "filename": name}
    d.start(*CONTROLLER)
    d.qmp("blockdev-add", node_name="n", **file, detect_zeroes="on", cache={"no-flush": True})
    d.qmp("blockdev-add", node_name="ro", **file, read_only=True)
    d.qmp("device_add", driver="scsi-cd", id="dev", drive="n")
    for node in ("", "n", "ro"):
        d.qmp("eject", id="dev")
        if node:
            d.qmp("blockdev-insert-medium", id="dev", node_name=node)
            d.qmp("eject", id="dev")
        d.qmp("blockdev-change-medium", id="dev", filename=d.path("b.qcow2"), format="qcow2")
        modes(d)


def _floppy(d: Session, *more: str) -> None:
    """Start with a floppy drive ``dev``, and nodes for it."""
    words: list[str] = []
    for name, option in (("w", ""), ("x", ""), ("ro", ",read-only=on")):
        words += "-blockdev", f"file,node-name={name},filename={d.file(name)}{option}"
    d.start("-machine", "pc", *words, "-device", ",".join(("floppy,id=dev", *more)))
    d.nbd_server()


def _shared(d: Session, node: str) -> None:
    """Show what others may do with a node."""
    d.qmp("query-block")
    for writable in (False, True):
        d.qmp("block-export-add", type="nbd", id=f"e-{node}", node_name=node, writable=writable)
        d.qmp("block-export-del", id=f"e-{node}")
    d.qmp("block_resize", node_name=node, size=1 << 20)


@system_scenario
def floppy_takes_media_of_all_kinds(d: Session) -> None:
    _floppy(d, "drive=w")
    for node in ("ro", "x", "w", "ro"):
        d.qmp("eject", id="dev")
        _shared(d, "w")
        d.qmp("blockdev-insert-medium", id="dev", node_name=node)
        _shared(d, node)
    path = d.path("w")
    for mode in ("read-write", "read-only", "retain"):
        d.qmp("blockdev-change-medium", id="dev", filename=path, format="raw", read_only_mode=mode)
        modes(d)


@system_scenario
def floppy_drive_without_a_medium_takes_one(d: Session) -> None:
    _floppy(d)
    keeps = {"driver": "blkdebug", "node_name": "k", "unshare_child_perms": ["write"]}
    d.qmp("blockdev-add", **keeps, image="w")
    d.qmp("blockdev-insert-medium", id="dev", node_name="w")
    d.qmp("blockdev-insert-medium", id="dev", node_name="ro")
    _shared(d, "ro")
    d.qmp("blockdev-remove-medium", id="dev")
    d.qmp("blockdev-del", node_name="k")
    d.qmp("blockdev-insert-medium", id="dev", node_name="w")
    _shared(d, "w")
    d.qmp("blockdev-add", **keeps, image="w")


@system_scenario
def floppy_drive_shares_what_is_written(d: Session) -> None:
    _floppy(d, "share-rw=on")
    d.qmp("blockdev-insert-medium", id="dev", node_name="w")
    _shared(d, "w")


@system_scenario
def medium_is_read_as_the_drive_says(d: Session) -> None:
    """What needs a file past the cache is refused once the drive's are not."""
    for image in ("a", "b"):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", f"{image}.qcow2", "1M")
    d.start(*CONTROLLER, "-drive", "if=none,id=cd,aio=native,cache=none,file=a.qcow2")
    d.qmp("device_add", driver="scsi-cd", id="dev", drive="cd")
    change = {"filename": d.path("b.qcow2"), "format": "qcow2", "read_only_mode": "read-write"}
    d.qmp("blockdev-change-medium", id="dev", **change)
    modes(d)
    io(d, "cd", "reopen -o cache.direct=off")
    modes(d)
    d.qmp("eject", id="dev")
    d.qmp("blockdev-change-medium", id="dev", **change)
    modes(d)


@system_scenario
def overlay_is_read_as_the_drive_says(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    d.start("-drive", "if=none,id=hd,aio=native,cache=none,file=a.qcow2")
    for direct in ("off", "on", "off"):
        io(d, "hd", f"reopen -o cache.direct={direct}")
        d.qmp("blockdev-snapshot-sync", device="hd", snapshot_file=d.path(direct))
        modes(d)
    d.qmp("drive-backup", device="hd", target=d.path("t"), sync="full", job_id="j")
