"""What objects are made from; what they are is in ``objects``."""

from typing import Any, Final, get_args

from pydantic import ConfigDict

from qmpfleece.base.registry import Registry
from qmpfleece.control.objects import OBJECT_FILES
from qmpfleece.qapi.model import Model

#: The model of what each type of object is made from, by its QAPI ``ObjectType``.
OBJECT_MODELS: Final[Registry[type["ObjectOptions"]]] = Registry(
    "object options model", OBJECT_FILES
)


class ObjectOptions(Model):
    """QAPI ``ObjectOptions``. The model of each type narrows ``qom_type`` to a literal."""

    model_config = ConfigDict(frozen=True)

    qom_type: str
    id: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name in get_args(cls.model_fields["qom_type"].annotation):
            OBJECT_MODELS.add(name, cls, cls.__module__)
