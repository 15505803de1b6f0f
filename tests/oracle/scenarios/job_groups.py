"""Jobs of one transaction of which one fails, is cancelled, or waits to be finalised.

Two disks with a bitmap each are backed up by jobs ``j`` and ``k``. Where ``k`` has to be the
last it is slow, and sleeps after its first chunk until it is told to go on.
"""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.job_policies import SECTOR
from tests.oracle.scenarios.jobs import CONCLUDED, NULL, SIZE, jobs, until_copied
from tests.oracle.scenarios.transactions import ABORT, backup, on, transact
from tests.oracle.session import Session

GROUPED = "grouped"
KEPT = {"auto-dismiss": False}
HELD = {"auto-finalize": False}
NONE = {"sync": "none"}
ONE = {"x-perf": {"max-workers": 1}}
SLOW = {"speed": 1, **ONE}
K = {"device": "disk2", "target": "second", "job": "k"}
ALWAYS = {"bitmap": "b", "bitmap-mode": "always"}
SUCCESS = {"bitmap": "b", "bitmap-mode": "on-success", "sync": "bitmap"}


def disks(d: Session, *, code: int = 0) -> None:
    """Add two disks with dirty bitmaps, and targets, of which that of ``k`` may fail halfway."""
    for name in ("disk", "disk2", "target"):
        path = d.file(f"{name}.raw", SIZE, (0x11, 0, SIZE))
        d.qmp("blockdev-add", driver="file", node_name=name, filename=path)
    rule = {"event": "none", "iotype": "write", "errno": code, "sector": SECTOR}
    image = {"driver": "file", "filename": d.file("second.raw", SIZE)}
    given = {"inject-error": [rule]} if code else {}
    d.qmp("blockdev-add", driver="blkdebug", node_name="second", image=image, **given)
    d.nbd_server()
    for node in ("disk", "disk2"):
        d.qmp("block-export-add", type="nbd", id=node, node_name=node, writable=True)
        d.qmp("block-dirty-bitmap-add", node=node, name="b")
        d.io(node, "write -P 0x11 1M 64k", "write -P 0x12 5M 200k")


def bitmaps(d: Session) -> None:
    """Show what the bitmaps hold."""
    for node in ("disk", "disk2"):
        d.qmp("x-debug-block-dirty-bitmap-sha256", node=node, name="b")
    nodes = d.qmp("query-named-block-nodes", flat=True) or []
    d.transcript.entries.pop()
    for node in nodes:
        for bitmap in node.get("dirty-bitmaps", ()):
            if bitmap.get("name"):
                d.transcript.add(f"# {node['node-name']}: {bitmap}")


def sleeps(d: Session) -> None:
    """Wait until ``j`` has finished and ``k`` sleeps."""
    d.event('"status": "waiting", "id": "j"')
    until_copied(d, "second.raw")


def go_on(d: Session) -> None:
    """Let ``k`` go on."""
    d.qmp("block-job-set-speed", device="k", speed=0)


def gone(name: str) -> str:
    return f'{NULL}, "id": "{name}"'


def merge(target: str, *sources: Any) -> dict[str, Any]:
    """Return an action that merges bitmaps into one of ``disk``."""
    data = {"node": "disk", "target": target, "bitmaps": list(sources)}
    return {"type": "block-dirty-bitmap-merge", "data": data}


@scenario
def group_of_which_one_fails(d: Session) -> None:
    disks(d, code=5)
    transact(d, backup(**NONE), backup(**K, **ONE, **ALWAYS), mode=GROUPED)
    d.event(gone("j"))
    jobs(d)
    bitmaps(d)


@scenario
def group_of_which_one_fails_kept(d: Session) -> None:
    disks(d, code=28)
    transact(d, backup(**NONE, **KEPT, **HELD), backup(**K, **ONE, **KEPT), mode=GROUPED)
    d.event(f'{CONCLUDED}, "id": "j"')
    jobs(d)
    for name in ("j", "k"):
        d.qmp("job-dismiss", id=name)
    jobs(d)


@scenario
def group_of_which_one_fails_after_the_other_has_finished(d: Session) -> None:
    disks(d, code=5)
    transact(d, backup(**SUCCESS), backup(**K, **SLOW, **ALWAYS, **KEPT), mode=GROUPED)
    sleeps(d)
    jobs(d)
    bitmaps(d)
    for verb in ("pause", "resume", "complete", "finalize", "dismiss"):
        d.qmp(f"job-{verb}", id="j")
    d.qmp("block-job-set-speed", device="j", speed=5)
    go_on(d)
    d.event(f'{CONCLUDED}, "id": "k"')
    d.event(gone("j"))
    jobs(d)
    bitmaps(d)


@scenario
def group_is_cancelled_by_the_one_that_has_finished(d: Session) -> None:
    disks(d)
    transact(d, backup(**SUCCESS), backup(**K, **NONE), mode=GROUPED)
    d.event('"status": "waiting", "id": "j"')
    jobs(d)
    d.qmp("job-cancel", id="j")
    d.event(gone("k"))
    d.event(gone("j"))
    jobs(d)
    bitmaps(d)


@scenario
def group_finishes(d: Session) -> None:
    disks(d)
    transact(d, backup(**SUCCESS), backup(**K, **SLOW, **ALWAYS), mode=GROUPED)
    sleeps(d)
    go_on(d)
    d.event(gone("j"))
    jobs(d)
    bitmaps(d)


@scenario
def group_is_finalized_by_the_first(d: Session) -> None:
    finalized_by(d, "j")


@scenario
def group_is_finalized_by_the_last(d: Session) -> None:
    finalized_by(d, "k")


def finalized_by(d: Session, name: str) -> None:
    disks(d)
    transact(d, backup(**HELD), backup(**K, **SLOW, **HELD), mode=GROUPED)
    sleeps(d)
    go_on(d)
    d.event('"type": "backup", "id": "j"')
    jobs(d)
    d.qmp("job-finalize", id=name)
    d.event(gone("j"))
    jobs(d)


@scenario
def group_is_held_by_one(d: Session) -> None:
    disks(d)
    transact(d, backup(**HELD, **SUCCESS), backup(**K, **SLOW, **KEPT, **ALWAYS), mode=GROUPED)
    sleeps(d)
    go_on(d)
    d.event("BLOCK_JOB_PENDING")
    d.event('"status": "pending", "id": "j"')
    jobs(d)
    bitmaps(d)
    d.qmp("job-finalize", id="k")
    d.event(gone("j"))
    jobs(d)
    bitmaps(d)


@scenario
def group_pending_is_cancelled(d: Session) -> None:
    disks(d)
    transact(
        d, backup(**HELD, **SUCCESS), backup(**K, **SLOW, **HELD, **ALWAYS, **KEPT), mode=GROUPED
    )
    sleeps(d)
    go_on(d)
    d.event('"type": "backup", "id": "j"')
    d.qmp("job-cancel", id="j")
    jobs(d)
    bitmaps(d)


@scenario
def individuals_of_which_one_fails(d: Session) -> None:
    disks(d, code=5)
    transact(d, backup(**NONE), backup(**K, **ONE, **ALWAYS), mode="individual")
    d.event(gone("k"))
    jobs(d)
    bitmaps(d)
    d.qmp("block-job-cancel", device="j")
    d.event(gone("j"))


@scenario
def individuals_of_which_one_is_cancelled(d: Session) -> None:
    disks(d)
    transact(d, backup(**SUCCESS), backup(**K, **NONE, **KEPT))
    d.event(gone("j"))
    jobs(d)
    d.qmp("block-job-cancel", device="k")
    d.event(CONCLUDED)
    jobs(d)
    bitmaps(d)


@scenario
def individuals_are_finalized_one_by_one(d: Session) -> None:
    disks(d)
    transact(d, backup(**HELD, **SUCCESS), backup(**K, **SLOW, **HELD, **ALWAYS))
    d.event("BLOCK_JOB_PENDING")
    until_copied(d, "second.raw")
    jobs(d)
    d.qmp("job-finalize", id="j")
    jobs(d)
    go_on(d)
    d.event("BLOCK_JOB_PENDING")
    jobs(d)
    d.qmp("job-finalize", id="k")
    jobs(d)
    bitmaps(d)


@scenario
def transaction_taken_back_leaves_bitmaps_as_they_were(d: Session) -> None:
    disks(d)
    bitmaps(d)
    for actions in (
        (on("clear"), backup(**K, **SUCCESS)),
        (backup(**SUCCESS), on("disable", node="disk2")),
        (backup(**SUCCESS), backup(**K, **SUCCESS), on("add", name="c"), on("clear", name="c")),
        (on("add", name="c"), merge("c", "b"), backup(**{**SUCCESS, "bitmap": "c"})),
        (merge("b", {"node": "disk2", "name": "b"}), on("remove")),
        (on("remove"), on("add", granularity=4096), merge("b", {"node": "disk2", "name": "b"})),
    ):
        transact(d, *actions, ABORT)
        jobs(d)
        bitmaps(d)
    transact(d, on("clear"), backup(**K, **SUCCESS), ABORT, mode=GROUPED)
    transact(d, backup(**K, **SUCCESS), ABORT, mode=GROUPED)
    transact(d, backup(**K, **SUCCESS), on("clear"), mode=GROUPED)
    bitmaps(d)
    d.io("disk", "write 7M 1k")
    bitmaps(d)


@scenario
def transaction_taken_back_with_a_bitmap_that_always_moves_on(d: Session) -> None:
    disks(d)
    transact(d, backup(**K, **ALWAYS), ABORT)
    bitmaps(d)
