import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.control.devices.properties import Property, as_text


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("bool", "on", True),
        ("bool", "no", False),
        ("uint32", "0x10", 16),
        ("uint32", "010", 8),
        ("int32", "-1", -1),
        ("int32", "+3", 3),
        ("uint32", "0", 0),
        ("uint64", "-1", (1 << 64) - 1),
        ("size", "512", 512),
        ("size", "4k", 4096),
        ("size", "1.5K", 1536),
        ("OnOffAuto", "auto", "auto"),
        ("str", "anything", "anything"),
    ],
)
def test_text_becomes_a_value(kind, text, value):
    assert Property("p", kind).parse(text, "dev") == value


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("bool", "maybe", "'on' or 'off'"),
        ("uint32", "x", "integer"),
        ("uint32", "09", "integer"),
        ("uint32", "-1", "uint32_t"),
        ("uint16", "65536", "uint16_t"),
        ("size", "4q", "size"),
        ("size", "16E", "size"),
    ],
)
def test_text_that_is_no_value_is_refused(kind, text, expected):
    with pytest.raises(QmpError, match=f"Parameter 'p' expects {expected}$"):
        Property("p", kind).parse(text, "dev")


def test_slots_of_the_pci_bus():
    addr = Property("addr", "int32")
    assert addr.parse("1f.7", "dev") == 0x1F * 8 + 7
    for text in ("x", "99", "1.8", ""):
        with pytest.raises(QmpError, match=f"doesn't take value '{text}'"):
            addr.parse(text, "dev")


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "on"), (False, "off"), (5, "5"), (1.5, "1.5"), ("x", "x"), (None, None), ([], None)],
)
def test_json_values_are_taken_as_text(value, text):
    assert as_text(value) == text
