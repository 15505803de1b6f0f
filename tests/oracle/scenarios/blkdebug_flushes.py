"""blkdebug: what it is told of flushes, and which reach it."""

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.blkdebug import SIZE, add, ask, raw_above, rule
from tests.oracle.session import Session


@scenario
def blkdebug_events_of_flush(d: Session) -> None:
    rules = [rule("flush_to_os"), rule("flush_to_disk", errno=28, iotype="read", sector=0)]
    raw_above(d, inject_error=rules)
    ask(d, "x", "flush", "read 0 512", "read 512 512", "write 0 512", "flush", "read 0 512")
    ask(d, "x", "read 512 512", "flush", "read 0 512", "read 512 512")


@scenario
def blkdebug_flush_that_failed_is_told_again(d: Session) -> None:
    rules = [
        rule("flush_to_disk", iotype="flush", once=True),
        rule("flush_to_disk", errno=28, iotype="read", state=2),
    ]
    changes = [rule("flush_to_disk", state=1, new_state=2)]
    raw_above(d, inject_error=rules, set_state=changes)
    ask(d, "x", "write 0 512", "flush", "read 0 512", "flush", "read 0 512")


@scenario
def blkdebug_flush_through_filters(d: Session) -> None:
    """It tells no events, and reaches what is not written to any more."""
    target = {"driver": "file", "filename": d.file("temp.raw", SIZE)}
    d.qmp("object-add", qom_type="throttle-group", id="g")
    d.nbd_server()
    for name, options in (
        ("t", {"driver": "throttle", "throttle-group": "g"}),
        ("c", {"driver": "copy-before-write", "target": target}),
    ):
        below = f"{name}b"
        rules = [
            rule(event, errno=28, iotype="read") for event in ("flush_to_os", "flush_to_disk")
        ]
        add(d, name=below, inject_error=[*rules, rule(iotype="flush")])
        d.qmp("blockdev-add", **{**options, "node-name": name, "file": below})
        d.qmp("block-export-add", id=name, type="nbd", node_name=name, name=name, writable=True)
        ask(d, name, "flush", "read 0 512", "write 0 512", "flush", "read 0 512")
        d.qmp("block-export-del", id=name, mode="hard")
        d.event("BLOCK_EXPORT_DELETED")
        d.qmp("blockdev-reopen", options=[{**options, "node-name": name, "file": below}])


@scenario
def blkdebug_events_of_a_flush_that_goes_no_further(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "q.qcow2", "1M")
    images = {"raw": d.file("r.raw", SIZE), "qcow2": d.path("q.qcow2")}
    d.nbd_server()
    for driver, filename in images.items():
        rules = [
            rule("flush_to_os", errno=5, iotype="read", once=True),
            rule("flush_to_disk", errno=28, iotype="read"),
        ]
        add(d, {"driver": "file", "filename": filename}, name=f"b{driver}", inject_error=rules)
        cache = {"no-flush": True}
        d.qmp("blockdev-add", driver=driver, node_name=driver, file=f"b{driver}", cache=cache)
        d.qmp("block-export-add", id=driver, type="nbd", node_name=driver, writable=True)
        ask(d, driver, "write 0 512", "flush", "read 0 512", "read 0 512", "write 0 512")
        ask(d, driver, "flush", "read 0 512")
