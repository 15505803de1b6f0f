import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.base.units import GIB, KIB, MIB, TIB, align_down, align_up


@given(st.integers(0, 1 << 70), st.integers(1, 1 << 20))
def test_alignment_gives_the_nearest_multiples(value, alignment):
    low, high = align_down(value, alignment), align_up(value, alignment)
    assert low <= value <= high
    assert low % alignment == high % alignment == 0
    assert high - low == (alignment if value % alignment else 0)


@pytest.mark.parametrize("value", [0, 512, 1 << 40])
def test_aligned_values_stay(value):
    assert align_down(value, 512) == align_up(value, 512) == value


def test_units_are_powers_of_1024():
    assert (KIB, MIB, GIB, TIB) == (1024, 1024**2, 1024**3, 1024**4)
