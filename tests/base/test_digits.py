import pytest

from qmpfleece.base.digits import c_integer, decimal


@pytest.mark.parametrize("number", [0, 7, 10, (1 << 64) - 1, 1 << 64, 10**63])
def test_decimal_digits_are_read_with_any_zeroes_before_them(number):
    assert decimal(f"{number}") == decimal(f"{'0' * 5000}{number}") == number


def test_a_number_of_more_digits_than_python_reads_is_a_large_one():
    assert decimal("1" * 5000) > 1 << 128
    assert c_integer("1" * 5000) > 1 << 128


@pytest.mark.parametrize(
    ("digits", "number"),
    [("0", 0), ("10", 10), ("010", 8), ("0x1f", 31), ("0XA", 10), (f"{'0' * 5000}7", 7)],
)
def test_the_first_digits_tell_the_base(digits, number):
    assert c_integer(digits) == number
