"""Options of block nodes: the members that all drivers share, and references to nodes.

The model of each driver lives beside the driver. Together they form QAPI's discriminated
union ``BlockdevOptions``, assembled when it is first used.

Source: QAPI ``BlockdevOptions``, ``BlockdevRef``, ``BlockdevCacheOptions``.
"""

from functools import cache
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from qmpfleece.base.registry import Registry
from qmpfleece.qapi.alternate import Alternate
from qmpfleece.qapi.drivers import DRIVER_FILES
from qmpfleece.qapi.model import Model

#: QAPI ``BlockdevDiscardOptions``.
DiscardOption: TypeAlias = Literal["ignore", "unmap"]
#: QAPI ``BlockdevDetectZeroesOptions``.
DetectZeroes: TypeAlias = Literal["off", "on", "unmap"]
#: QAPI ``OnOffAuto``.
OnOffAuto: TypeAlias = Literal["auto", "on", "off"]
#: QAPI ``BlockdevAioOptions``.
AioOption: TypeAlias = Literal["threads", "native", "io_uring"]

#: The options model of each driver, by the name in ``BlockdevDriver``.
BLOCKDEV_MODELS: Final[Registry[type["BlockdevOptions"]]] = Registry(
    "driver options model", DRIVER_FILES
)


class BlockdevCacheOptions(Model):
    """QAPI ``BlockdevCacheOptions``."""

    model_config = ConfigDict(frozen=True)

    direct: bool | None = None
    no_flush: bool | None = None


class BlockdevOptions(Model):
    """What all drivers take. A driver's model narrows ``driver`` to a literal."""

    model_config = ConfigDict(frozen=True)

    driver: str
    node_name: str | None = None
    discard: DiscardOption | None = None
    cache: BlockdevCacheOptions | None = None
    read_only: bool | None = None
    auto_read_only: bool | None = None
    force_share: bool | None = None
    detect_zeroes: DetectZeroes | None = None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name in get_args(cls.model_fields["driver"].annotation):
            BLOCKDEV_MODELS.add(name, cls, cls.__module__)


@cache
def blockdev_adapter() -> TypeAdapter[Any]:
    """Return the validator of the whole union."""
    models: Any = tuple(BLOCKDEV_MODELS.values())
    union: Any = Annotated[Union[models], Field(discriminator="driver")]  # noqa: UP007 - built here
    return TypeAdapter(union)


def validate_blockdev(value: Any) -> BlockdevOptions:
    """Validate a node definition.

    Args:
        value: The JSON object.

    Raises:
        pydantic.ValidationError: It is no valid definition.
    """
    options: BlockdevOptions = blockdev_adapter().validate_python(value, strict=True)
    return options


def _validate_ref(value: Any) -> "str | BlockdevOptions":
    if isinstance(value, str | BlockdevOptions):
        return value
    if isinstance(value, dict):
        return validate_blockdev(value)
    raise PydanticCustomError(
        "qapi_type", "Invalid parameter type, expected: {expected}", {"expected": "BlockdevRef"}
    )


def _dump_ref(value: "str | BlockdevOptions") -> Any:
    return value if isinstance(value, str) else value.to_wire()


class RefSchema:
    """Validates a ``BlockdevRef``; the union behind it is looked up when it is needed."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _validate_ref,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump_ref),
        )


class RefOrNullSchema(RefSchema):
    """Validates a ``BlockdevRefOrNull``."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.nullable_schema(super().__get_pydantic_core_schema__(source, handler))


#: A nested definition, or the name of an existing node. QAPI alternate ``BlockdevRef``.
BlockdevRef: TypeAlias = Annotated[str | BlockdevOptions, RefSchema(), Alternate("BlockdevRef")]
#: The same, or null for "none, not even the default". QAPI alternate ``BlockdevRefOrNull``.
#: An optional member of this type is null only if it is in ``model_fields_set``.
BlockdevRefOrNull: TypeAlias = Annotated[
    str | BlockdevOptions | None, RefOrNullSchema(), Alternate("BlockdevRefOrNull")
]
