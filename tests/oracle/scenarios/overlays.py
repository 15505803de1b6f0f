"""blockdev-snapshot-sync: how the overlay is open."""

from typing import Any

from tests.oracle.scenario import Scenario, scenario, system_scenario
from tests.oracle.scenarios.media import modes
from tests.oracle.scenarios.qemu_io_reopen import io
from tests.oracle.session import Session


def overlay(name: str, options: str) -> Scenario:
    """Make a scenario of an overlay on a drive with some options."""

    def run(d: Session) -> None:
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
        d.start("-drive", f"if=none,id=d,file=a.qcow2,format=qcow2,{options}")
        for image in ("b", "c"):
            d.qmp("blockdev-snapshot-sync", device="d", snapshot_file=d.path(f"{image}.qcow2"))
            modes(d)
            for line in ("write -q -P 3 0 256k", "discard -q 0 128k", "flush", "reopen"):
                io(d, "d", line)
            d.tool("qemu-img", "map", "-U", "--output=json", f"{image}.qcow2")
        d.qmp("query-block")

    run.__name__ = name
    return system_scenario(run)


overlay("overlay_with_discards", "discard=unmap")
overlay("overlay_without_discards", "discard=ignore")
overlay("overlay_for_reading", "read-only=on")
overlay("overlay_for_reading_with_discards", "read-only=on,discard=unmap,auto-read-only=off")
overlay("overlay_past_the_cache", "cache=none,detect-zeroes=on")
overlay("overlay_without_flushes", "cache=unsafe,auto-read-only=on")


def overlay_of_a_node(name: str, **options: Any) -> Scenario:
    """Make a scenario of an overlay on a node with some options."""

    def run(d: Session) -> None:
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
        file = {"driver": "file", "filename": d.path("a.qcow2")}
        d.qmp("blockdev-add", driver="qcow2", node_name="n", file=file, **options)
        d.qmp("blockdev-add", driver="raw", node_name="top", file="n", read_only=True)
        d.qmp(
            "blockdev-snapshot-sync",
            node_name="n",
            snapshot_node_name="o",
            snapshot_file=d.path("b.qcow2"),
        )
        modes(d)
        d.nbd_server()
        d.qmp("block-export-add", type="nbd", id="e", node_name="o", name="o", writable=True)
        d.io("o", "write -q -P 3 0 256k", "discard -q 0 128k", "flush")
        d.tool("qemu-img", "map", "-U", "--output=json", "b.qcow2")

    run.__name__ = name
    return scenario(run)


overlay_of_a_node("overlay_of_a_node_with_discards", discard="unmap")
overlay_of_a_node("overlay_of_a_node_for_reading", read_only=True)
overlay_of_a_node("overlay_of_a_node_that_may_be_for_reading", auto_read_only=True)
