"""What ``blockdev-create`` makes: a model of each kind of image, which knows how it is created."""

from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import ConfigDict

from qmpfleece.base.errors import QmpError
from qmpfleece.base.registry import Folder, Registry
from qmpfleece.qapi.model import Model

if TYPE_CHECKING:
    from qmpfleece.block.graph import Graph

#: The model of each kind of image that can be created, by the name in ``BlockdevDriver``.
CREATE_MODELS: Final[Registry[type["BlockdevCreateOptions"]]] = Registry(
    "creation options model",
    Folder("qmpfleece.block.drivers", r'\bdriver: Literal\["([\w-]+)"\]'),
)


class BlockdevCreateOptions(Model):
    """QAPI ``BlockdevCreateOptions``: an image to be created.

    Each driver that can create images has a subclass, which narrows ``driver`` to a literal
    and implements ``create``. Of the others nothing but the driver is said.
    """

    model_config = ConfigDict(frozen=True)

    driver: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name in get_args(cls.model_fields["driver"].annotation):
            CREATE_MODELS.add(name, cls, cls.__module__)

    async def create(self, graph: "Graph") -> None:
        """Create the image; one that is there is overwritten.

        Args:
            graph: Where nodes that it refers to are found and opened; what is opened here is
                released here.

        Raises:
            QmpError: It can't be created.
            OSError: The same.
        """
        raise QmpError("Driver does not support blockdev-create")
