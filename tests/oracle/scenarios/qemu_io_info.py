"""info of qemu-io, through the human monitor: part of it is printed, part is the reply."""

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.qemu_io_reopen import io
from tests.oracle.session import Session


def create(d: Session, name: str, **options: object) -> None:
    """Add an image as node ``name``."""
    path = d.path(f"{name}.qcow2")
    words = ",".join(f"{key}={value}" for key, value in options.items())
    more = ("-o", words) if words else ()
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", *more, path, "1M")
    d.qmp(
        "blockdev-add", driver="qcow2", node_name=name, file={"driver": "file", "filename": path}
    )


def above(d: Session) -> list[str]:
    """Add nodes above an image ``q``, a file and nothing; return their names."""
    create(d, "q")
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("f.raw"))
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=1 << 20)
    d.qmp("object-add", qom_type="throttle-group", id="g")
    for below in "qfn":
        for driver, more in (
            ("raw", {"file": below}),
            ("blkdebug", {"image": below}),
            ("throttle", {"file": below, "throttle-group": "g"}),
        ):
            d.qmp("blockdev-add", driver=driver, node_name=f"{driver}-{below}", **more)
    d.qmp("blockdev-add", driver="raw", node_name="window", file="q", offset=512)
    names = [f"{driver}-{below}" for driver in ("raw", "blkdebug", "throttle") for below in "qfn"]
    return [*"qfn", *names, "window"]


@system_scenario
def qemu_io_tells_of_images(d: Session) -> None:
    create(d, "plain")
    create(d, "old", compat="0.10", cluster_size=512)
    create(d, "new", extended_l2="on", cluster_size="16k", compression_type="zstd")
    create(d, "data", data_file=d.path("data"), data_file_raw="on", lazy_refcounts="on")
    d.qmp("block-dirty-bitmap-add", node="plain", name="b", persistent=True)
    for name in ("plain", "old", "new", "data"):
        io(d, name, "info")
    for line in ("i", "help info", "help i", "help l", "help map", "help alloc"):
        io(d, "plain", line)


@system_scenario
def qemu_io_tells_of_what_is_above_images(d: Session) -> None:
    for name in above(d):
        io(d, name, "info")


@scenario
def cluster_sizes_show_through_nodes_above_images(d: Session) -> None:
    above(d)
    d.qmp("query-named-block-nodes", flat=True)
