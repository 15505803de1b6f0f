"""What comes first: which of several errors is told, which of several things ends first."""

from tests.oracle.scenario import scenario
from tests.oracle.session import Session


def nodes(d: Session, *names: str) -> None:
    for name in names:
        path = d.file(f"{name}.raw")
        d.qmp("blockdev-add", driver="file", node_name=name, filename=path)


@scenario
def force_share_before_detect_zeroes(d: Session) -> None:
    both = {"force_share": True, "detect_zeroes": "unmap"}
    d.qmp("blockdev-add", driver="null-co", node_name="a", **both)
    d.qmp("blockdev-add", driver="null-co", node_name="a", read_only=True, **both)


@scenario
def cbw_bitmap_before_target(d: Session) -> None:
    nodes(d, "disk")
    given = {"driver": "copy-before-write", "node_name": "c", "file": "disk", "target": "disk"}
    d.qmp("blockdev-add", bitmap={"node": "none", "name": "b"}, **given)
    d.qmp("blockdev-add", bitmap={"node": "disk", "name": "b"}, **given)


@scenario
def backing_of_itself(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    given = {"driver": "qcow2", "file": {"driver": "file", "filename": d.path("a.qcow2")}}
    d.qmp("blockdev-add", node_name="a", backing="a", **given)
    d.qmp("blockdev-add", node_name="a", backing="none", **given)
    nested = {"driver": "raw", "node-name": "r", "file": "a"}
    d.qmp("blockdev-add", node_name="a", backing=nested, **given)


@scenario
def reopened_with_another_driver(d: Session) -> None:
    nodes(d, "disk")
    d.qmp("blockdev-add", driver="raw", node_name="a", file="disk")
    for driver, file in (("snapshot-access", "none"), ("throttle", "a"), ("raw", "a")):
        group = {"throttle-group": "g"} if driver == "throttle" else {}
        options = {"driver": driver, "node-name": "a", "file": file} | group
        d.qmp("blockdev-reopen", options=[options])
    d.qmp("blockdev-reopen", options=[{"driver": "null-co", "node-name": "a"}])
    d.qmp(
        "blockdev-reopen",
        options=[{"driver": "snapshot-access", "node-name": "a", "file": "disk"}],
    )


@scenario
def exports_end_with_quit(d: Session) -> None:
    d.nbd_server()
    nodes(d, "a", "b", "c")
    for name in ("b", "c", "a"):
        d.qmp("block-export-add", id=f"export-{name}", type="nbd", node_name=name)


@scenario
def exports_end_with_server(d: Session) -> None:
    d.nbd_server()
    nodes(d, "a", "b", "c")
    for name in ("b", "c", "a"):
        d.qmp("block-export-add", id=f"export-{name}", type="nbd", node_name=name)
    d.qmp("nbd-server-stop")
    d.qmp("query-block-exports")
