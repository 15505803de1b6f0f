import pytest
from pydantic import TypeAdapter, ValidationError

from qmpfleece.qapi.model import Int64, Model, Size, Uint16, Uint32, Uint64, kebab


class Inner(Model):
    some_number: Int64


class Outer(Model):
    from_: str | None = None
    inner: Inner
    size: Size | None = None


@pytest.mark.parametrize(
    ("name", "wire"), [("node_name", "node-name"), ("from_", "from"), ("x", "x")]
)
def test_names_on_the_wire_have_dashes(name, wire):
    assert kebab(name) == wire


def test_wire_form_is_in_schema_order_without_what_is_absent():
    model = Outer(size=5, inner=Inner(some_number=-1))
    assert list(model.to_wire().items()) == [("inner", {"some-number": -1}), ("size", 5)]
    assert Outer.model_validate({"from": "x", "inner": {"some-number": 1}}).from_ == "x"


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"inner": {}},
        {"inner": {"some-number": 1}, "unknown": 1},
        {"inner": {"some-number": 1, "unknown": 1}},
        {"inner": {"some-number": "1"}},
        {"inner": {"some-number": 1.0}},
        {"inner": {"some-number": True}},
        {"inner": {"some-number": 1}, "from": None, "size": "4k"},
    ],
)
def test_what_is_missing_unknown_or_of_the_wrong_type_is_refused(value):
    with pytest.raises(ValidationError):
        Outer.model_validate(value, strict=True)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        (Int64, -(1 << 63), (1 << 63) - 1),
        (Uint64, 0, (1 << 64) - 1),
        (Uint32, 0, (1 << 32) - 1),
        (Uint16, 0, (1 << 16) - 1),
        (Size, 0, (1 << 64) - 1),
    ],
)
def test_integers_have_the_range_of_their_type(kind, low, high):
    adapter = TypeAdapter(kind)
    assert [adapter.validate_python(value, strict=True) for value in (low, high)] == [low, high]
    for value in (low - 1, high + 1):
        with pytest.raises(ValidationError):
            adapter.validate_python(value, strict=True)
