import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import MIB
from qmpfleece.bitmap.bits import MAX_GRANULES
from qmpfleece.bitmap.dirty import DirtyBitmap, find_bitmap

GRANULARITY = 65536


@pytest.fixture
def bitmap():
    return DirtyBitmap(MIB, GRANULARITY, "b")


def test_write_marks_whole_granules_of_an_enabled_bitmap_only(bitmap):
    bitmap.mark(1, 1)
    assert bitmap.count == GRANULARITY
    bitmap.enabled = False
    bitmap.mark(MIB - 1, 1)
    assert bitmap.count == GRANULARITY
    bitmap.enabled = True
    bitmap.mark(MIB - 1, 1)
    assert bitmap.count == 2 * GRANULARITY


def test_check_names_the_first_reason_to_leave_the_bitmap_alone(bitmap):
    bitmap.check()
    bitmap.inconsistent = True
    with pytest.raises(QmpError, match=r"^Bitmap 'b' is inconsistent and cannot be used$"):
        bitmap.check()
    bitmap.check(allow_inconsistent=True)
    bitmap.readonly = True
    with pytest.raises(QmpError, match=r"^Bitmap 'b' is readonly and cannot be modified$"):
        bitmap.check()
    bitmap.check(allow_readonly=True, allow_inconsistent=True)
    bitmap.busy = True
    with pytest.raises(
        QmpError,
        match=r"^Bitmap 'b' is currently in use by another operation and cannot be used$",
    ):
        bitmap.check(allow_readonly=True, allow_inconsistent=True)


def test_clear_can_be_undone(bitmap):
    bitmap.mark(0, 1)
    backup = bitmap.clear()
    assert bitmap.count == 0
    bitmap.mark(GRANULARITY, 1)
    bitmap.restore(backup)
    assert list(bitmap.bits.areas()) == [(0, GRANULARITY)]


def test_clear_can_be_undone_after_the_node_has_grown(bitmap):
    bitmap.mark(0, 1)
    backup = bitmap.clear()
    bitmap.bits.resize(2 * MIB)
    bitmap.restore(backup)
    assert bitmap.bits.length == 2 * MIB
    assert bitmap.count == GRANULARITY


def test_merge_can_be_undone_and_refuses_another_size(bitmap):
    source = DirtyBitmap(MIB, 512, "s")
    source.mark(512, 1)
    backup = bitmap.backup()
    bitmap.merge(source)
    assert bitmap.count == GRANULARITY
    bitmap.restore(backup)
    assert bitmap.count == 0
    with pytest.raises(
        QmpError,
        match=r"^Bitmaps are of different sizes \(destination size is 1048576, "
        r"source size is 512\) and can't be merged$",
    ):
        bitmap.merge(DirtyBitmap(512, 512, "t"))


def test_successor_records_while_its_parent_is_busy(bitmap):
    bitmap.mark(0, 1)
    successor = bitmap.create_successor()
    assert bitmap.busy
    assert bitmap.recording
    assert successor.name is None
    for each in (bitmap, successor):
        each.mark(GRANULARITY, 1)
    assert bitmap.count == successor.count == GRANULARITY
    with pytest.raises(QmpError, match="successor for a bitmap that is in-use"):
        bitmap.create_successor()


def test_abdication_gives_name_and_persistence_to_the_successor(bitmap):
    bitmap.persistent = True
    successor = bitmap.create_successor()
    heir = bitmap.abdicate()
    assert heir is successor
    assert (heir.name, heir.persistent, heir.enabled) == ("b", True, True)
    assert (bitmap.name, bitmap.persistent, bitmap.busy) == (None, False, False)
    assert bitmap.successor is None


def test_reclaim_merges_the_successor_and_records_again(bitmap):
    bitmap.mark(0, 1)
    successor = bitmap.create_successor()
    successor.mark(GRANULARITY, 1)
    assert bitmap.reclaim() is successor
    assert bitmap.count == 2 * GRANULARITY
    assert bitmap.enabled
    assert not bitmap.busy


def test_successor_of_a_disabled_bitmap_does_not_record_either(bitmap):
    bitmap.enabled = False
    successor = bitmap.create_successor()
    assert not successor.enabled
    assert not bitmap.recording
    bitmap.reclaim()
    assert not bitmap.enabled


def test_bitmap_is_found_by_its_name_never_an_unnamed_one(bitmap):
    unnamed = DirtyBitmap(MIB, GRANULARITY)
    assert find_bitmap([unnamed, bitmap], "b") is bitmap
    with pytest.raises(QmpError, match=r"^Dirty bitmap '' not found$"):
        find_bitmap([unnamed], "")


def test_bitmap_too_large_for_memory_is_refused_not_tried():
    with pytest.raises(QmpError, match="it would be too large"):
        DirtyBitmap(1 << 62, GRANULARITY)


def test_bitmap_does_not_grow_too_large_for_memory(bitmap):
    with pytest.raises(OSError, match="Cannot allocate memory"):
        bitmap.bits.resize((MAX_GRANULES + 1) * GRANULARITY)
    assert bitmap.bits.length == MIB
