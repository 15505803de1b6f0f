"""Numbers as users write them, who may write any number of digits."""

from typing import Final

#: More digits than any number has that something is done with; Python refuses thousands.
_MOST: Final = 64


def decimal(digits: str) -> int:
    """Return the number that decimal digits say, with zeroes before it or not.

    Args:
        digits: ASCII digits, at least one.

    Returns:
        The number; some other one above 2^128 if it is as large as that.
    """
    digits = digits.lstrip("0") or "0"
    return int(digits[:_MOST])


def c_integer(digits: str) -> int:
    """Return what C reads: ``0x`` before hexadecimal digits, ``0`` before octal ones.

    Args:
        digits: Without a sign; ASCII, and digits of their kind.

    Returns:
        As ``decimal`` does.
    """
    if digits.startswith("0"):
        return int(digits, 16 if digits[:2] in {"0x", "0X"} else 8)
    return decimal(digits)
