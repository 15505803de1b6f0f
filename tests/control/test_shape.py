import enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from qmpfleece.control.shape import (
    INT64,
    Alternate,
    Array,
    Builtin,
    Enum,
    Integer,
    Struct,
    Union,
    shape_of,
    struct_of,
)
from qmpfleece.qapi import alternate
from qmpfleece.qapi.blockdev import BLOCKDEV_MODELS, BlockdevOptions, BlockdevRef
from qmpfleece.qapi.model import Int64, Model, Size, Uint16, Uint32


class Kind(enum.StrEnum):
    A = "a"
    B = "b"


class Node(Model):
    name: str
    below: "Node | None" = None


class One(Model):
    the_type: Literal["one"] = Field(alias="the-type")


class Two(Model):
    the_type: Literal["two", "three"] = Field(alias="the-type")


@pytest.mark.parametrize(
    ("annotation", "shape"),
    [
        (str, Builtin("str")),
        (bool, Builtin("bool")),
        (float, Builtin("number")),
        (Any, Builtin("any")),
        (dict[str, Any], Builtin("dict")),
        (int, INT64),
        (Int64, INT64),
        (Uint16, Integer("uint16_t", 0, 0xFFFF)),
        (Uint32, Integer("uint32_t", 0, 0xFFFFFFFF)),
        (Size, Integer("uint64", 0, (1 << 64) - 1)),
        (Uint32 | None, Integer("uint32_t", 0, 0xFFFFFFFF)),
        (Literal["x", "y"], Enum("", ("x", "y"))),
        (Kind, Enum("Kind", ("a", "b"))),
        (list[str], Array(Builtin("str"))),
        (
            Annotated[str | None, alternate.Alternate("StrOrNull")],
            Alternate("StrOrNull", (Builtin("str"), Builtin("null"))),
        ),
    ],
)
def test_annotation_has_the_shape_of_its_qapi_type(annotation, shape):
    assert shape_of(annotation) == shape


def test_model_is_a_struct_that_may_contain_itself():
    struct = shape_of(Node)
    assert isinstance(struct, Struct)
    name, below = struct.members
    assert (name.wire, name.required) == ("name", True)
    assert (below.wire, below.required) == ("below", False)
    assert below.shape is struct is struct_of(Node)


def test_discriminated_union_finds_its_variants_by_tag():
    union = shape_of(Annotated[One | Two, Field(discriminator="the_type")])
    assert isinstance(union, Union)
    assert union.tag == "the-type"
    assert union.variant("one") is struct_of(One)
    assert union.variant("three") is struct_of(Two)
    assert union.variant("four") is None


def test_open_union_sees_what_is_registered_later():
    union = shape_of(BlockdevOptions)
    assert union.variant("nonesuch") is None

    class Late(BlockdevOptions):
        driver: Literal["nonesuch"]

    try:
        assert union.variant("nonesuch") is struct_of(Late)
    finally:
        del BLOCKDEV_MODELS._items["nonesuch"]


def test_reference_to_a_node_is_an_alternate_by_the_name_that_errors_use():
    shape = shape_of(BlockdevRef)
    assert shape.name == "BlockdevRef"


@pytest.mark.parametrize("annotation", [str | int, bytes, set[str]])
def test_what_qapi_cannot_say_is_our_mistake(annotation):
    with pytest.raises(TypeError):
        shape_of(annotation)
