"""Every expected text was printed by qemu-storage-daemon 7.2, most as an echoed ``id``."""

import json
import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.qapi.encode import Printed, encode
from qmpfleece.qmp.framer import Framer


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0, "0"),
        (12345678901234567890, "12345678901234567890"),
        (1.5, "1.5"),
        (1000.0, "1000"),
        (0.1, "0.10000000000000001"),
        (1e22, "1e+22"),
        (1e16, "10000000000000000"),
        (1e17, "1e+17"),
        (1e-7, "9.9999999999999995e-08"),
        (0.00001234, "1.234e-05"),
        (-0.0, "-0"),
        (5e-324, "4.9406564584124654e-324"),
        (math.inf, "inf"),
        (3.14159265358979, "3.14159265358979"),
        ('\b\f\n\r\t\\"/', '"\\b\\f\\n\\r\\t\\\\\\"/"'),
        ("\x00\x01\x1f\x7f", '"\\u0000\\u0001\\u001F\\u007F"'),
        ("é😀", '"\\u00E9\\uD83D\\uDE00"'),
        ("\udcff\udce2\udc82x", '"\\uFFFD\\uFFFDx"'),
        ("\udced\udca0\udc80\ufffe\ufdd0", '"\\uFFFD\\uFFFD\\uFFFD"'),
        ([], "[]"),
        ({}, "{}"),
        ([1, [2, {}], "x"], '[1, [2, {}], "x"]'),
        (
            {"z": 1, "y": [], "x": {}, "": None, "é": 1, "a b": 2},
            '{"": null, "\\u00E9": 1, "x": {}, "y": [], "a b": 2, "z": 1}',
        ),
    ],
)
def test_values_are_printed_as_qemu_prints_them(value, text):
    assert encode(value).decode() == text


def test_pretty_mode_indents_and_opens_empty_objects():
    value = {"a": [], "b": {}, "c": [1, [2, {"x": 1}]], "d": [{}]}
    lines = [
        "{",
        '    "d": [',
        "        {",
        "        }",
        "    ],",
        '    "a": [',
        "    ],",
        '    "b": {',
        "    },",
        '    "c": [',
        "        1,",
        "        [",
        "            2,",
        "            {",
        '                "x": 1',
        "            }",
        "        ]",
        "    ]",
        "}",
    ]
    assert encode(value, pretty=True).decode() == "\r\n".join(lines)


def test_nesting_costs_no_recursion():
    value = []
    for _ in range(5000):
        value = [value]
    assert encode(value) == b"[" * 5001 + b"]" * 5001


def test_what_has_no_json_form_is_our_bug():
    with pytest.raises(TypeError):
        encode({"a": object()})


no_characters = {0xFDD0 + i for i in range(32)}
characters = st.characters(
    exclude_categories=["Cs"],
    exclude_characters=[chr(c) for c in no_characters]
    + [chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF)],
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(characters),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(characters), inner),
    max_leaves=20,
)


@given(values, st.booleans())
def test_what_is_printed_is_read_back(value, pretty):
    # A scalar alone ends with the byte after it.
    assert list(Framer().feed(encode(value, pretty=pretty) + b"\n")) == [value]


@given(values)
def test_it_is_json(value):
    assert json.loads(encode(value)) == value


@given(st.dictionaries(st.text(), st.integers() | st.lists(st.text())), st.booleans())
def test_object_that_remembers_its_text_is_printed_alike(value, pretty):
    for around in (
        lambda item: item,
        lambda item: [item],
        lambda item: [1, item, item, "x"],
        lambda item: {"b": item, "a": {"c": [item]}},
    ):
        printed = encode(around(Printed(value)), pretty=pretty)
        assert printed == encode(around(value), pretty=pretty)


def test_text_is_made_once():
    value = Printed({"a": 1})
    assert value.text is value.text


def test_long_names_of_members_are_not_remembered():
    tracemalloc.start()
    try:
        for number in range(100):
            encode({f"{number}" * 50_000: 1})
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
