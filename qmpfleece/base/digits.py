"""Numbers as users write them, who may write any number of digits."""

import re
from typing import Final

#: More digits than any number has that something is done with; Python refuses thousands.
_MOST: Final = 64
_C_NUMBER: Final = re.compile(
    r"\s*(?P<sign>[+-]?)(?P<digits>0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*)", re.ASCII | re.IGNORECASE
)


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


def c_number(text: str) -> int | None:
    """Return the number that C reads in a text, None when it is not all of the text.

    A sign and spaces may stand before it. What is not between -2^64 and 2^64 is some other number
    that is not, either.
    """
    match = _C_NUMBER.fullmatch(text)
    if match is None:
        return None
    value = c_integer(match["digits"])
    return -value if match["sign"] == "-" else value
