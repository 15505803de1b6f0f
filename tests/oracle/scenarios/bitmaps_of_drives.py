"""Bitmaps that are named by the drive that they are of, and told of by its name."""

from tests.oracle.scenario import system_scenario
from tests.oracle.session import Session


def _start(d: Session) -> None:
    """Start with a drive ``hd`` on the node ``n`` with a bitmap ``b``, and one without medium."""
    disk = f"if=none,id=hd,format=raw,node-name=n,file={d.file('a.raw')}"
    d.start("-drive", disk, "-drive", "if=none,id=cd,media=cdrom")
    d.qmp("block-dirty-bitmap-add", node="hd", name="b", disabled=True)


@system_scenario
def exported_bitmap_is_named_by_its_drive(d: Session) -> None:
    _start(d)
    d.nbd_server()
    for node in ("hd", "n", "cd", "none"):
        for name in ("b", "c"):
            given = {"id": node, "type": "nbd", "node_name": "n", "name": node}
            bitmaps = [{"node": node, "name": name}]
            if d.qmp("block-export-add", bitmaps=bitmaps, **given) is not None:
                d.nbdinfo(node, "--list")
                d.qmp("block-export-del", id=node)
                d.event("BLOCK_EXPORT_DELETED")


@system_scenario
def bitmap_of_copy_before_write_is_named_by_its_drive(d: Session) -> None:
    _start(d)
    target = {"driver": "file", "filename": d.file("t.raw")}
    for node in ("hd", "n", "cd", "none"):
        for name in ("b", "c"):
            given = {"driver": "copy-before-write", "file": "n", "target": target}
            bitmap = {"node": node, "name": name}
            if d.qmp("blockdev-add", node_name="f", bitmap=bitmap, **given) is not None:
                d.qmp("blockdev-del", node_name="f")
    below = {"driver": "copy-before-write", "file": "n", "target": target}
    below["bitmap"] = {"node": "hd", "name": "b"}
    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file=below)


@system_scenario
def child_is_named_by_its_drive(d: Session) -> None:
    _start(d)
    for name in ("hd", "cd"):
        d.qmp("blockdev-add", driver="raw", node_name=f"r-{name}", file=name)
    d.qmp("query-named-block-nodes", flat=True)


@system_scenario
def bitmap_is_told_of_by_its_drive(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "a.qcow2", "1M")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "b.qcow2", "1M")
    d.start(
        *("-drive", "if=none,id=old,file=a.qcow2,node-name=o"),
        *("-drive", "if=none,id=new,file=b.qcow2,node-name=n"),
    )
    for node in ("old", "o", "new", "n"):
        for granularity in (256, 65536, 1 << 31):
            given = {"node": node, "granularity": granularity, "persistent": True}
            d.qmp("block-dirty-bitmap-add", name=f"{node}-{granularity}", **given)
        d.qmp("block-dirty-bitmap-add", node=node, name="x" * 1024, persistent=True)
    for node in ("old", "o"):
        d.qmp("block-dirty-bitmap-remove", node=node, name="nah")
