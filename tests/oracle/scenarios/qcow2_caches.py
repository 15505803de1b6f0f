"""The caches of a qcow2 image: their options, and what reopening does to them."""

from typing import Any

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.devices import hmp
from tests.oracle.session import Session


def _image_failing_at_load(d: Session, number: int) -> None:
    """Open an image as ``q`` whose L2 tables can't be loaded from the given time on."""
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "64M")
    d.tool("qemu-io", "-c", "write 0 1M", "a.qcow2")
    counting = [
        {"event": "l2_load", "state": state, "new_state": state + 1} for state in range(1, number)
    ]
    error = {"event": "l2_load", "state": number, "errno": 5, "immediately": True, "once": True}
    d.qmp(
        "blockdev-add",
        driver="blkdebug",
        node_name="d",
        image={"driver": "file", "filename": d.path("a.qcow2")},
        set_state=counting,
        inject_error=[error],
    )
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file="d")


def _reopen(d: Session, **more: Any) -> None:
    options = {"driver": "qcow2", "node-name": "q", "file": "d"}
    options |= {name.replace("_", "-"): value for name, value in more.items()}
    d.qmp("blockdev-reopen", options=[options])


@system_scenario
def reopening_empties_the_caches(d: Session) -> None:
    _image_failing_at_load(d, 2)
    hmp(d, 'qemu-io q "read 0 512"', 'qemu-io q "read 4M 512"')
    _reopen(d)
    hmp(d, 'qemu-io q "read 0 512"')


@system_scenario
def reopening_changes_the_parts_of_tables(d: Session) -> None:
    _image_failing_at_load(d, 4)
    hmp(d, 'qemu-io q "read 0 512"', 'qemu-io q "write 8M 64k"')
    _reopen(d, l2_cache_entry_size=512)
    hmp(d, 'qemu-io q "read 0 512"', 'qemu-io q "read 4095k 512"')
    hmp(d, 'qemu-io q "write -P 9 4M 64k"', 'qemu-io q "read -P 9 4M 64k"')
    hmp(d, 'qemu-io q "read 8M 512"')
    _reopen(d, l2_cache_entry_size=65536)
    hmp(d, 'qemu-io q "read 8M 512"')


@scenario
def cache_clean_interval_out_of_range(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "64M")
    d.qmp("blockdev-add", driver="file", node_name="d", filename=d.path("a.qcow2"))
    for value in (-1, 0, 1, 4294967295, 4294967296):
        d.qmp("blockdev-add", driver="qcow2", node_name="q", file="d", cache_clean_interval=value)
        d.qmp("blockdev-del", node_name="q")
    wrong = {"cache_clean_interval": 1 << 40, "l2_cache_entry_size": 7}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file="d", **wrong)
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file="d")
    for value in (-1, 0, 1, 1 << 40):
        _reopen(d, cache_clean_interval=value)
