from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.block.drivers.qcow2 import overlap
from qmpfleece.block.drivers.qcow2.overlap import Overlap

KINDS = [overlap.HEADER, overlap.ACTIVE_L1, overlap.ACTIVE_L2, overlap.REFBLOCK]
PLACES = st.tuples(st.sampled_from(KINDS), st.integers(0, 20000), st.integers(1, 3000))


@given(
    st.lists(PLACES, max_size=8),
    st.integers(0, 7),
    st.integers(0, 20000),
    st.integers(1, 5000),
    st.sampled_from(["", *KINDS]),
)
def test_finds_metadata_by_cluster_as_a_search_through_all_would(
    places, removed, offset, length, ignore
):
    known = Overlap(9, frozenset(KINDS))
    for place in places:
        known.add(*place)
    for place in places[:removed]:
        known.remove(*place)
    wanted = set(range(offset >> 9, (offset + length - 1 >> 9) + 1))
    hit = {
        kind
        for kind, start, size in places[removed:]
        if kind != ignore and wanted & set(range(start >> 9, (start + size - 1 >> 9) + 1))
    }
    assert known.find(offset, length, ignore) == next(
        (kind for kind in KINDS if kind in hit), None
    )


def test_what_is_not_looked_after_is_not_found():
    known = Overlap(9, frozenset({overlap.HEADER}))
    known.add(overlap.ACTIVE_L1, 0, 512)
    known.add_many(overlap.ACTIVE_L2, [512])
    assert known.find(0, 1024) is None


def test_what_was_not_recorded_is_taken_from_nobody_else():
    known = Overlap(9, frozenset(KINDS))
    known.add(overlap.ACTIVE_L1, 512, 512)
    known.remove(overlap.ACTIVE_L2, 512, 512)
    assert known.find(512, 512) == overlap.ACTIVE_L1
    known.remove(overlap.ACTIVE_L1, 512, 512)
    assert known.find(512, 512) is None


def test_many_clusters_are_recorded_at_once():
    known = Overlap(9, frozenset(KINDS))
    known.add_many(overlap.ACTIVE_L2, [4096, 512])
    assert known.find(0, 512) is None
    assert known.find(1000, 1) == overlap.ACTIVE_L2
    assert known.find(4097, 10000) == overlap.ACTIVE_L2


def test_thousands_of_large_tables_in_one_place_are_recorded_each_for_itself():
    known = Overlap(9, frozenset([*KINDS, overlap.INACTIVE_L1]))
    places = [(-number % 3 * 4096 + (1 << 40), 1 << 25) for number in range(65536)]
    for place in places:
        known.add(overlap.INACTIVE_L1, *place)
    known.add(overlap.REFBLOCK, 1 << 40, 512)
    for place in places[1:]:
        known.remove(overlap.INACTIVE_L1, *place)
        known.remove(overlap.ACTIVE_L1, *place)
    assert known.find(1 << 40, 512) == overlap.REFBLOCK
    assert known.find((1 << 40) + 512, 512) == overlap.INACTIVE_L1
    assert known.find((1 << 40) + (1 << 25) - 1, 1) == overlap.INACTIVE_L1
    assert known.find((1 << 40) + (1 << 25), 1 << 20) is None
