"""The model of 257's bitmap, which says what the test expects."""

import pytest

from iotests.bitmap_model import BitmapModel, Pattern, clusters_of
from iotests.programs import DISK_SIZE

KIB = 1024
CLUSTER = 64 * KIB
LAST = DISK_SIZE // CLUSTER - 1


def model_before_backup():
    model = BitmapModel(written=[0])
    model.write(1)
    return model


def test_a_pattern_makes_every_cluster_dirty_that_it_touches():
    assert Pattern(1, 0).clusters == {0}
    assert Pattern(1, 32 * KIB).clusters == {0, 1}
    assert Pattern(1, CLUSTER, 3 * CLUSTER).clusters == {1, 2, 3}
    assert Pattern(1, DISK_SIZE - CLUSTER).clusters == {LAST}


def test_a_pattern_is_written_by_this_command():
    assert Pattern(0x6C, 1 << 20).command == "write -P0x6c 0x0100000 0x10000"


def test_a_new_bitmap_is_empty_whatever_was_written_before():
    model = BitmapModel(written=[0])
    assert model.dirty == frozenset()
    assert model.written == clusters_of([0])


def test_a_bitmap_is_frozen_during_a_backup_and_its_successor_records():
    model = model_before_backup()
    before = model.dirty
    model.begin_backup("bitmap")
    model.write(2)
    assert model.dirty == before
    assert model.successor == clusters_of([2])


@pytest.mark.parametrize(
    ("mode", "success", "groups"),
    [
        ("on-success", True, [2]),
        ("on-success", False, [1, 2]),
        ("never", True, [1, 2]),
        ("never", False, [1, 2]),
        ("always", True, [2]),
        ("always", False, [2]),
    ],
)
def test_the_end_of_a_complete_copy_leaves_these_groups_dirty(mode, success, groups):
    model = model_before_backup()
    model.begin_backup("bitmap")
    model.write(2)
    model.end_backup(mode, success=success)
    assert model.dirty == clusters_of(groups)
    assert model.successor is None


@pytest.mark.parametrize(("sync", "copied"), [("bitmap", 1), ("top", 1), ("full", 15)])
def test_a_failing_second_read_leaves_what_is_not_copied_with_mode_always(sync, copied):
    model = model_before_backup()
    to_copy = {
        "bitmap": clusters_of([1]),
        "top": clusters_of([0, 1]),
        "full": frozenset(range(LAST + 1)),
    }[sync]
    model.begin_backup(sync)
    done = model.copied_before_second_read()
    assert done == frozenset(range(copied))
    model.end_backup("always", success=False, copied=done)
    assert model.dirty == to_copy - done
