"""Options that are said as text."""

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.control.option_text import value_of
from qmpfleece.control.shape import shape_of
from qmpfleece.qapi.model import Int64, Uint64

INT, UINT, SWITCH = shape_of(Int64), shape_of(Uint64), shape_of(bool)


@pytest.mark.parametrize(
    ("shape", "name", "text", "value"),
    [
        (INT, "size", "1.5k", 1536),
        (INT, "cache-clean-interval", "0x10", 16),
        (INT, "cache-clean-interval", "010", 8),
        (INT, "cache-clean-interval", "-1", -1),
        (UINT, "latency-ns", "-1", (1 << 64) - 1),
        (SWITCH, "lazy-refcounts", "on", True),
        (INT, "size", "8E", (1 << 63) - 1),
    ],
)
def test_a_text_means(shape, name, text, value):
    assert value_of(shape, name, text) == value


@pytest.mark.parametrize(
    ("shape", "name", "text", "refusal"),
    [
        (INT, "cache-clean-interval", "1k", "expects a number"),
        (INT, "cache-clean-interval", "9" * 20, "is too large"),
        (INT, "size", "16E", "is out of range"),
        (INT, "size", "1.5", "expects a non-negative number below"),
        (SWITCH, "lazy-refcounts", "1", "expects 'on' or 'off'"),
    ],
)
def test_a_text_that_means_nothing_is_refused(shape, name, text, refusal):
    with pytest.raises(QmpError, match=refusal):
        value_of(shape, name, text)
