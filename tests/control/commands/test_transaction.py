"""transaction: all or none, at one moment. Texts are those of QEMU 7.2."""

import random

import pytest

from tests.control.commands.conftest import ENDED, SIZE
from tests.tools.fleecing import CLUSTER, pattern
from tests.tools.until import settle

BACKUP = {"device": "disk", "target": "target", "job-id": "j", "sync": "full"}
OTHER = {"device": "disk2", "target": "target2", "job-id": "k", "sync": "full"}
ABORT = ("abort", {})
ABORTED = "Transaction aborted using Abort action"
ENDS_UNSTARTED = ("created", "aborting", "concluded", "null")
GROUPED = {"completion-mode": "grouped"}


def actions(*pairs: tuple[str, dict[str, object]]):
    return [{"type": kind, "data": data} for kind, data in pairs]


def on(verb, name="b", **more: object):
    return (f"block-dirty-bitmap-{verb}", {"node": "disk", "name": name} | more)


@pytest.fixture
def two(desk):
    """The desk with a second disk and target."""
    desk.disk("disk2", pattern(SIZE))
    desk.disk("target2", bytes(SIZE))
    return desk


def state(desk):
    """Return all that a transaction of bitmaps could have changed."""
    return [
        (b.name, b.enabled, b.busy, b.granularity, b.count, b.bits.sha256())
        for b in desk.graph.find("disk").bitmaps
    ]


async def test_empty_transaction_does_nothing(desk):
    assert await desk.say("transaction", actions=[]) == {}


async def test_actions_are_done_in_order(desk):
    assert (
        await desk.say(
            "transaction",
            actions=actions(
                on("add", "a", granularity=512),
                on("add", "b", disabled=True),
                on("enable", "b"),
                on("disable", "a"),
                ("block-dirty-bitmap-merge", {"node": "disk", "target": "b", "bitmaps": ["a"]}),
                on("clear", "b"),
                on("remove", "a"),
            ),
        )
        == {}
    )
    assert [bitmap[:2] for bitmap in state(desk)] == [("b", True)]


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (ABORT, ABORTED),
        (on("add", "b"), "Bitmap already exists: b"),
        (on("clear", "x"), "Dirty bitmap 'x' not found"),
        (
            on("remove", "gone"),
            "Bitmap 'gone' is currently in use by another operation and cannot be used",
        ),
        (
            ("blockdev-backup", BACKUP | {"target": "x"}),
            "Cannot find device='x' nor node-name='x'",
        ),
    ],
)
async def test_failed_transaction_restores_bitmaps_exactly(desk, last, error):
    guest = desk.guest("disk")
    for name in ("b", "c", "gone"):
        await desk.say("block-dirty-bitmap-add", node="disk", name=name)
    await desk.say("block-dirty-bitmap-disable", node="disk", name="c")
    rnd = random.Random(5)
    for _ in range(5):
        await guest.pwrite(rnd.randrange(SIZE - 512), memoryview(b"x" * 512))
    before = state(desk)
    merge = {"node": "disk", "target": "c", "bitmaps": ["b", {"node": "disk", "name": "c"}]}
    given = actions(
        on("add", "new"),
        on("disable", "b"),
        on("enable", "c"),
        ("block-dirty-bitmap-merge", merge),
        on("clear", "b"),
        on("clear", "c"),
        on("disable", "c"),
        on("remove", "gone"),
        last,
    )
    assert await desk.say("transaction", actions=given) == error
    assert state(desk) == before


async def test_job_of_a_failed_transaction_has_never_started(desk):
    await desk.say("block-dirty-bitmap-add", node="disk", name="b")
    more = {"sync": "bitmap", "bitmap": "b", "bitmap-mode": "always"}
    before = state(desk), desk.graph.nodes()
    await desk.take()
    given = actions(("blockdev-backup", BACKUP | more), ABORT)
    assert await desk.say("transaction", actions=given) == ABORTED
    assert desk.heard == [
        "j created",
        "j aborting",
        "j concluded",
        "j null",
        f"error: {ABORTED}",
    ]
    assert (state(desk), desk.graph.nodes()) == before


@pytest.mark.parametrize("properties", [{}, GROUPED])
async def test_two_jobs_of_a_failed_transaction_have_never_started(two, properties):
    """QEMU 7.2 answers nothing any more when they are grouped."""
    before = two.graph.nodes()
    await two.take()
    given = actions(("blockdev-backup", BACKUP), ("blockdev-backup", OTHER), ABORT)
    assert await two.say("transaction", actions=given, properties=properties) == ABORTED
    assert sorted(two.heard) == sorted(
        [
            *(f"{job} {state}" for job in "jk" for state in ENDS_UNSTARTED),
            f"error: {ABORTED}",
        ]
    )
    assert two.graph.nodes() == before
    assert await two.say("transaction", actions=given[:2]) == {}
    await two.until("j null")
    await two.until("k null")


async def test_backup_and_clear_happen_at_one_moment(desk):
    guest = desk.guest("disk")
    await desk.say("block-dirty-bitmap-add", node="disk", name="b")
    await guest.pwrite(0, memoryview(b"x" * 512))
    first = bytes(desk.disks["disk"].data)
    desk.disks["disk"].stop("write")
    write = desk.later(guest.pwrite(2 * CLUSTER, memoryview(b"x" * 512)))
    await settle()
    say = desk.later(
        desk.say("transaction", actions=actions(("blockdev-backup", BACKUP), on("clear")))
    )
    await settle()
    assert not say.done()  # what was in flight is waited for, and is part of the snapshot
    second = desk.later(guest.pwrite(4 * CLUSTER, memoryview(b"x" * 512)))
    await settle()
    desk.disks["disk"].release()
    await write
    assert await say == {}
    await second
    await desk.until("j null")
    expected = bytearray(first)
    expected[2 * CLUSTER : 2 * CLUSTER + 512] = b"x" * 512
    assert desk.disks["target"].data == expected
    assert [n for n in range(8) if desk.bitmap("disk", "b").bits.get(n * CLUSTER)] == [4]


async def test_write_that_comes_between_a_change_of_a_bitmap_and_its_undoing_is_marked(
    desk, tmp_path
):
    other = tmp_path / "other"
    other.write_bytes(bytes(SIZE))
    guest = desk.guest("disk")
    await desk.say("blockdev-add", driver="file", node_name="file", filename=str(other))
    await desk.say("block-dirty-bitmap-add", node="disk", name="b")
    desk.disks["disk"].stop("write")
    first = desk.later(guest.pwrite(0, memoryview(b"x" * 512)))
    await settle()
    image = str(tmp_path / "new")
    snapshot = {"node-name": "file", "snapshot-file": image, "snapshot-node-name": "new"}
    given = actions(on("clear"), ("blockdev-snapshot-sync", snapshot), ABORT)
    say = desk.later(desk.say("transaction", actions=given))
    await settle()
    second = desk.later(guest.pwrite(2 * CLUSTER, memoryview(b"x" * 512)))
    await settle()
    desk.disks["disk"].release()  # the second goes on while the snapshot's image is made
    assert await say == ABORTED
    await first
    await second
    assert [n for n in range(8) if desk.bitmap("disk", "b").bits.get(n * CLUSTER)] == [0, 2]


async def test_jobs_of_one_transaction_end_on_their_own_by_default(two):
    two.disks["target"].errors["write"] = 5
    given = actions(("blockdev-backup", BACKUP), ("blockdev-backup", OTHER))
    assert await two.say("transaction", actions=given) == {}
    await two.until("j null")
    await two.until("k null")
    assert "j aborting" in two.heard
    assert "k aborting" not in two.heard
    assert two.disks["target2"].data == pattern(SIZE)


async def test_grouped_jobs_are_started_and_finished_as_qemu_does(two):
    given = actions(("blockdev-backup", BACKUP), ("blockdev-backup", OTHER))
    await two.say("transaction", actions=given, properties=GROUPED)
    assert two.heard == [
        "j created",
        "k created",
        "j running",
        "j paused",
        "k running",
        "k paused",
        "j running",
        "k running",
        "return",
    ]
    await two.until("j null")
    assert two.heard[-8:] == [
        "k pending",
        "j pending",
        *[f"k {text[2:]}" for text in ENDED[2:]],
        *ENDED[2:],
    ]


async def test_failing_job_takes_its_group_with_it_and_bitmaps_stay(two):
    for node in ("disk", "disk2"):
        await two.say("block-dirty-bitmap-add", node=node, name="b")
        await two.guest(node).pwrite(0, memoryview(b"x" * 512))
    more = {"sync": "bitmap", "bitmap": "b", "bitmap-mode": "on-success"}
    two.disks["target"].errors["write"] = 5
    given = actions(("blockdev-backup", BACKUP | more), ("blockdev-backup", OTHER | more))
    await two.say("transaction", actions=given, properties=GROUPED)
    await two.until("j null")
    await two.until("k null")
    assert "k BLOCK_JOB_CANCELLED" in two.heard
    for node in ("disk", "disk2"):
        assert two.bitmap(node, "b").count == CLUSTER


async def test_grouping_is_refused_for_actions_without_jobs(desk):
    given = actions(("blockdev-backup", BACKUP), on("add"))
    assert await desk.say("transaction", actions=given, properties=GROUPED) == (
        "Action 'block-dirty-bitmap-add' does not support Transaction property"
        " completion-mode = grouped"
    )
    assert await desk.say("query-jobs") == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "Parameter 'actions' is missing"),
        (
            {"actions": [{"type": "zzz", "data": {}}]},
            "Parameter 'type' does not accept value 'zzz'",
        ),
        ({"actions": [{"type": "abort"}]}, "Parameter 'actions[0].data' is missing"),
        ({"actions": [{"data": {}}]}, "Parameter 'actions[0].type' is missing"),
        (
            {"actions": [], "properties": {"completion-mode": "zzz"}},
            "Parameter 'completion-mode' does not accept value 'zzz'",
        ),
        (
            {"actions": [{"type": "abort", "data": {"x": 1}}]},
            "Parameter 'actions[0].data.x' is unexpected",
        ),
    ],
)
async def test_malformed_transaction_is_refused(desk, arguments, error):
    assert await desk.say("transaction", arguments) == error
