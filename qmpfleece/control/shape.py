"""The QAPI shape of Python annotations: struct, union, alternate, enum, array, builtin.

The pydantic models are the only description of what is said. This module reads them once,
when they are needed, into the few kinds of type that QAPI knows; ``visitor`` checks input against
shapes, ``introspect`` prints them for query-qmp-schema.

====================================================  =========================================
annotation                                            shape
====================================================  =========================================
``str``, ``bool``, ``int``, ``float``, ``Any``        Builtin
``Int64``, ``Uint32``, ``Size``... (int with bounds)  Integer, named after its C type
``Literal["a", "b"]``, a ``StrEnum``                  Enum
``list[X]``                                           Array
a ``Model``                                           Struct
``Annotated[A | B, Field(discriminator="t")]``        Union
``BlockdevOptions``, ``BlockdevCreateOptions``        Union over all drivers (an *open* union)
``ObjectOptions``                                     Union over all types of object, likewise
``TransactionAction``                                 Union over all actions, likewise
``Annotated[A | B, Alternate("Name")]``               Alternate
``X | None``                                          X, the member is optional
====================================================  =========================================

The parameters of a function make a Struct, too. Where there is no model in them pydantic, which
takes long to import, is not: what is special about models and their fields is told by what they
have, not by their classes.
"""

import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    TypeAlias,
    get_args,
    get_origin,
)
from typing import Union as TypingUnion

from qmpfleece.base.registry import Derived
from qmpfleece.qapi.names import kebab

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from qmpfleece.qapi.model import Model


class Builtin(NamedTuple):
    """A JSON type without inner structure: str, bool, number, null, any or dict (an object)."""

    name: str


class Integer(NamedTuple):
    """A whole number.

    Attributes:
        name: The C type that QEMU's error texts use.
        low: The smallest value.
        high: The largest value.
    """

    name: str
    low: int
    high: int

    @property
    def signed(self) -> bool:
        """Tell whether values below zero are meant."""
        return self.low < 0


class Enum(NamedTuple):
    """One of some strings."""

    name: str
    values: tuple[str, ...]


class Array(NamedTuple):
    """A list of ``element``."""

    element: "Shape"


class Member(NamedTuple):
    """A member of an object.

    Attributes:
        field: The name in Python.
        wire: The name on the wire.
        shape: What the value is.
        required: False if it may be left out.
    """

    field: str
    wire: str
    shape: "Shape"
    required: bool


class Struct:
    """An object with fixed members; they are read when first asked for, so types may recurse.

    Args:
        read: Returns the members in schema order.
        make: Takes the values that were given, by their names on the wire, and returns what
            they make.
    """

    def __init__(
        self,
        read: Callable[[], tuple[Member, ...]],
        make: Callable[..., Any],
    ) -> None:
        self._read: Final = read
        self.make: Final = make

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The members in schema order."""
        return self._read()

    @cached_property
    def by_wire(self) -> Mapping[str, Member]:
        """The members by their name on the wire."""
        return {member.wire: member for member in self.members}


class Union:
    """An object whose members depend on the value of its tag.

    Args:
        name: For the schema only.
        tag: The wire name of the deciding member.
        variants: The model for each tag value.
    """

    def __init__(self, name: str, tag: str, variants: "Mapping[str, type[Model]]") -> None:
        self.name: Final = name
        self.tag: Final = tag
        self._variants: Final = variants

    @property
    def variants(self) -> Mapping[str, Struct]:
        """The struct for each value of the tag."""
        return {value: struct_of(model) for value, model in self._variants.items()}

    def variant(self, value: str) -> Struct | None:
        """Return the struct for a tag value, None if there is none."""
        model = self._variants.get(value)
        return None if model is None else struct_of(model)


class Alternate(NamedTuple):
    """One of several shapes, told apart by their JSON type."""

    name: str
    arms: "tuple[Shape, ...]"


Shape: TypeAlias = Builtin | Integer | Enum | Array | Struct | Union | Alternate

_BUILTINS: Final[Mapping[Any, Builtin]] = {
    str: Builtin("str"),
    bool: Builtin("bool"),
    float: Builtin("number"),
    Any: Builtin("any"),
    object: Builtin("any"),
    dict: Builtin("dict"),
    type(None): Builtin("null"),
}
INT64: Final = Integer("int64", -(1 << 63), (1 << 63) - 1)
_INTEGERS: Final[Mapping[tuple[int, int], Integer]] = {
    (INT64.low, INT64.high): INT64,
    (0, (1 << 64) - 1): Integer("uint64", 0, (1 << 64) - 1),
    **{(0, (1 << bits) - 1): Integer(f"uint{bits}_t", 0, (1 << bits) - 1) for bits in (8, 16, 32)},
    **{
        (-(1 << bits - 1), (1 << bits - 1) - 1): Integer(
            f"int{bits}_t", -(1 << bits - 1), (1 << bits - 1) - 1
        )
        for bits in (8, 16, 32)
    },
}


@cache
def _open_unions() -> "Mapping[type[Model], Union]":
    """Return the unions to which each file of a package adds a variant."""
    from qmpfleece.block.creating import CREATE_MODELS, BlockdevCreateOptions
    from qmpfleece.control.object_options import OBJECT_MODELS, ObjectOptions
    from qmpfleece.control.transaction import ACTION_MODELS, TransactionAction
    from qmpfleece.qapi.blockdev import BLOCKDEV_MODELS, BlockdevOptions

    # What is said to create an image of each driver; of most there is nothing to say.
    create: Mapping[str, type[Model]] = Derived(
        BLOCKDEV_MODELS, lambda name: CREATE_MODELS.get(name, BlockdevCreateOptions)
    )
    return {
        BlockdevOptions: Union("BlockdevOptions", "driver", BLOCKDEV_MODELS),
        BlockdevCreateOptions: Union("BlockdevCreateOptions", "driver", create),
        ObjectOptions: Union("ObjectOptions", "qom-type", OBJECT_MODELS),
        TransactionAction: Union("TransactionAction", "type", ACTION_MODELS),
    }


@cache
def struct_of(model: "type[Model]") -> Struct:
    """Return the one shape of a model; it makes instances."""
    # All is checked by then: pydantic need not, and never has to build a validator for it.
    return Struct(
        lambda: tuple(_member(name, info) for name, info in model.model_fields.items()),
        model.model_construct,
    )


def struct_of_parameters(function: Callable[..., Any], *, skip: int = 0) -> Struct:
    """Return the shape of what a function is told by name; it makes keyword arguments.

    Args:
        function: Its annotations have a shape; a parameter with a default is optional.
        skip: How many parameters come before.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = [*inspect.signature(function).parameters.values()][skip:]
    names = {kebab(parameter.name): parameter.name for parameter in parameters}
    required = {item.name for item in parameters if item.default is inspect.Parameter.empty}
    defaults = {item.name: item.default for item in parameters if item.name not in required}

    def read() -> tuple[Member, ...]:
        return tuple(
            Member(name, wire, shape_of(hints[name]), name in required)
            for wire, name in names.items()
        )

    def make(**given: Any) -> dict[str, Any]:
        return defaults | {names[wire]: value for wire, value in given.items()}

    return Struct(read, make)


def shape_of(annotation: Any, metadata: tuple[Any, ...] = ()) -> Shape:
    """Return the shape of an annotation.

    Raises:
        TypeError: QAPI has nothing like it; a mistake in a model of ours.
    """
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return _open_unions().get(annotation) or struct_of(annotation)
    if annotation is int:
        return _integer(metadata)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return Enum(annotation.__name__, tuple(str(item.value) for item in annotation))
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return shape_of(inner, (*metadata, *_flat(more)))
    if origin in {TypingUnion, types.UnionType}:
        return _union(get_args(annotation), metadata)
    if origin is Literal:
        return Enum("", tuple(get_args(annotation)))
    if origin in {list, tuple}:
        return Array(shape_of(get_args(annotation)[0]))
    try:
        return _BUILTINS[origin or annotation]
    except (KeyError, TypeError) as error:
        raise TypeError(f"{annotation!r} has no QAPI shape") from error


def _flat(metadata: "list[Any]") -> list[Any]:
    """Unfold the constraints that pydantic keeps inside a FieldInfo."""
    found = []
    for item in metadata:
        found.append(item)
        found.extend(getattr(item, "metadata", ()))
    return found


def _member(name: str, info: "FieldInfo") -> Member:
    metadata: tuple[Any, ...] = tuple(info.metadata)
    if info.discriminator is not None:
        metadata = (*metadata, info)
    shape = shape_of(info.annotation, metadata)
    return Member(name, info.alias or kebab(name), shape, info.is_required())


def _integer(metadata: tuple[Any, ...]) -> Integer:
    low, high = INT64.low, INT64.high
    for item in metadata:
        if isinstance(bound := getattr(item, "ge", None), int):
            low = bound
        elif isinstance(bound := getattr(item, "lt", None), int):
            high = bound - 1
    return _INTEGERS.get((low, high), INT64)


def _union(arms: tuple[Any, ...], metadata: tuple[Any, ...]) -> Shape:
    for item in metadata:
        if name := getattr(item, "qapi_name", None):
            return Alternate(name, tuple(shape_of(arm) for arm in arms))
    present = [arm for arm in arms if arm is not type(None)]
    if len(present) == 1:
        return shape_of(present[0], metadata)
    for item in metadata:
        if isinstance(field := getattr(item, "discriminator", None), str):
            return _closed_union(present, field)
    raise TypeError(f"{arms!r}: neither optional, nor an Alternate, nor discriminated")


def _closed_union(models: "list[type[Model]]", field: str) -> Union:
    variants = {
        value: model
        for model in models
        for value in get_args(model.model_fields[field].annotation)
    }
    tag = models[0].model_fields[field].alias or kebab(field)
    return Union("", tag, variants)
