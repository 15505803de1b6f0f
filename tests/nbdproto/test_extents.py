import itertools

from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.nbdproto.extents import merge, pack_block_status, unpack_block_status


def test_block_status_chunk():
    # Section "Structured reply types", NBD_REPLY_TYPE_BLOCK_STATUS
    assert pack_block_status(1, 2, [(512, 3), (1024, 0)], 1) == (
        b"\x66\x8e\x33\xef\0\1\0\5\0\0\0\0\0\0\0\1\0\0\0\x14"
        b"\0\0\0\2\0\0\2\0\0\0\0\3\0\0\4\0\0\0\0\0"
    )


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2))))
def test_merging_keeps_the_status_of_every_byte_and_leaves_no_equal_neighbours(given_extents):
    merged = merge(given_extents)

    def spread(found):
        return [flags for length, flags in found for _ in range(length)]

    assert spread(merged) == spread(given_extents)
    assert all(length for length, _ in merged)
    assert all(a[1] != b[1] for a, b in itertools.pairwise(merged))


def test_merging_does_not_overflow_the_wire():
    big = (1 << 32) - (64 << 20)
    assert merge([(big, 0), (big, 0)]) == [(big, 0), (big, 0)]


@given(
    st.integers(0, (1 << 32) - 1),
    st.lists(st.tuples(st.integers(1, (1 << 32) - 1), st.integers(0, (1 << 32) - 1)), min_size=1),
)
def test_what_is_packed_is_unpacked(context, found):
    assert unpack_block_status(pack_block_status(0, context, found, 0)[20:]) == (context, found)
