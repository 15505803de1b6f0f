"""Image locks: between two nodes of ours, and between us and another process."""

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.nodes import null, query
from tests.oracle.session import Session


@scenario
def force_share(d: Session) -> None:
    name = d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name, force_share=True)
    d.qmp(
        "blockdev-add",
        driver="file",
        node_name="a",
        filename=name,
        force_share=True,
        read_only=True,
    )
    query(d)


@scenario
def image_locked_by_another(d: Session) -> None:
    name = d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name)
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="a", writable=True)
    d.tool("qemu-io", "-f", "raw", "-c", "read 0 512", name)
    d.tool("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", name)
    d.tool("qemu-io", "-U", "-r", "-f", "raw", "-c", "read 0 512", name)
    d.tool("qemu-img", "info", "-U", "-f", "raw", name)
    d.tool("qemu-img", "info", "-f", "raw", name)
    d.qmp("block-export-del", id="e")
    d.tool("qemu-io", "-f", "raw", "-c", "read 0 512", name)


@scenario
def image_held_by_another(d: Session) -> None:
    name = d.file("disk.raw")
    d.hold_image(name)
    d.nbd_server()
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name)
    d.qmp("block-export-add", type="nbd", id="a", node_name="a", writable=True)
    d.qmp("block-export-add", type="nbd", id="a", node_name="a")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="a")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="a", read_only=True)
    d.qmp("blockdev-add", driver="file", node_name="b", filename=name, read_only=True)
    d.qmp("block-export-add", type="nbd", id="b", node_name="b")
    d.qmp("blockdev-add", driver="file", node_name="c", filename=name, locking="off")
    d.qmp("block-export-add", type="nbd", id="c", node_name="c", writable=True)
    query(d)


@scenario
def image_held_and_named_in_a_definition(d: Session) -> None:
    name = d.file("disk.raw")
    d.hold_image(name)
    child = {"driver": "file", "node-name": "proto", "filename": name}
    d.qmp("blockdev-add", driver="raw", node_name="r", file=child)
    child["read-only"] = True
    d.qmp("blockdev-add", driver="raw", node_name="r", file=child, read_only=True)
    query(d)


@scenario
def image_held_and_used_in_a_filter(d: Session) -> None:
    held = d.file("held.raw")
    d.hold_image(held)
    d.qmp("blockdev-add", **null("disk"))
    d.qmp("blockdev-add", driver="file", node_name="held", filename=held)
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="disk", target="held")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="held", target="disk")
    nested = {"driver": "file", "node-name": "other", "filename": held}
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="disk", target=nested)
    query(d)


@scenario
def image_locked_twice_by_us(d: Session) -> None:
    name = d.file("disk.raw")
    d.nbd_server()
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name)
    d.qmp("blockdev-add", driver="file", node_name="b", filename=name)
    d.qmp("block-export-add", type="nbd", id="e", node_name="a", writable=True)
    d.qmp("block-export-add", type="nbd", id="f", node_name="b", writable=True)
    d.qmp("block-export-add", type="nbd", id="g", node_name="b")
    d.qmp("blockdev-add", driver="file", node_name="c", filename=name, read_only=True)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="b")
    query(d)


@scenario
def image_not_locked(d: Session) -> None:
    name = d.file("disk.raw")
    d.nbd_server()
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name, locking="off")
    d.qmp("blockdev-add", driver="file", node_name="b", filename=name, locking="off")
    d.qmp("block-export-add", type="nbd", id="e", node_name="a", writable=True)
    d.qmp("block-export-add", type="nbd", id="f", node_name="b", writable=True)
    d.tool("qemu-io", "-f", "raw", "-c", "read 0 512", name)
    d.qmp("blockdev-add", driver="file", node_name="c", filename=name, locking="on")
    d.qmp("blockdev-add", driver="file", node_name="d", filename=name, locking="maybe")
