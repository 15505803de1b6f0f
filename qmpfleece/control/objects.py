"""The objects that users create with object-add: secrets, throttle groups, I/O threads.

They are what ``/objects`` of QEMU's object tree holds. This knows their names and types and how
their properties are read and set; what an object does is the business of its class, which has a
file of its own in ``object_types/``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.base.names import well_formed
from qmpfleece.base.registry import Folder, Registry
from qmpfleece.qapi.order import ordered

if TYPE_CHECKING:
    from qmpfleece.control.object_options import ObjectOptions
    from qmpfleece.control.system import System

#: Where they are, each with its model.
OBJECT_FILES: Final = Folder("qmpfleece.control.object_types", r'\bqom_type="([\w-]+)"')
#: Every type of object by its QAPI ``ObjectType``.
OBJECT_TYPES: Final[Registry[type["UserObject"]]] = Registry("type of object", OBJECT_FILES)


def check_id(name: str) -> None:
    """Refuse what can't be an id.

    Raises:
        QmpError: QEMU's words.
    """
    if not well_formed(name):
        raise QmpError("Parameter 'id' expects an identifier")


class UserObject:
    """An object that a user has made and may remove.

    Class keywords:
        qom_type: The QAPI name of its type, e.g. ``throttle-group``.

    Args:
        system: What it may touch.
        name: Its id.

    Attributes:
        properties: The QOM types of its properties, by their names.
        read_only: Those of them that can't be set.
    """

    qom_type: ClassVar[str]
    properties: ClassVar[Mapping[str, str]]
    read_only: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, *, qom_type: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.qom_type = qom_type
        OBJECT_TYPES.add(qom_type, cls, cls.__module__)

    def __init__(self, system: "System", name: str) -> None:
        self.system: Final = system
        self.name: Final = name

    def get_property(self, name: str) -> Any:
        """Return a property as JSON. Source: QAPI ``qom-get``.

        Raises:
            QmpError: There is none of that name.
        """
        if name == "type":
            return self.qom_type
        if name not in self.properties:
            raise QmpError(f"Property '{self.qom_type}.{name}' not found")
        return self._get(name)

    def set_property(self, name: str, value: Any) -> None:
        """Set a property. Source: QAPI ``qom-set``.

        Args:
            name: The property.
            value: JSON that nobody has checked.

        Raises:
            QmpError: There is none of that name, it can't be set, or not to this.
        """
        if name == "type" or name in self.read_only:
            raise QmpError(f"Property '{self.qom_type}.{name}' is not writable")
        if name not in self.properties:
            raise QmpError(f"Property '{self.qom_type}.{name}' not found")
        self._set(name, value)

    def _get(self, name: str) -> Any:
        raise NotImplementedError

    def _set(self, name: str, value: Any) -> None:
        raise NotImplementedError

    async def complete(self) -> None:
        """Begin to be what it is: its properties are set and it has its id.

        Raises:
            QmpError: The properties don't fit together; the object is thrown away.
        """

    def removable(self) -> bool:
        """Tell whether nobody uses it."""
        return True

    def removed(self) -> None:
        """Take note that it has been removed."""


class Objects:
    """The objects by their ids, in the order of their making.

    Attributes:
        used: There has been one.
    """

    def __init__(self) -> None:
        self.used = False
        self._objects: dict[str, UserObject] = {}

    def get(self, name: str) -> UserObject | None:
        """Return the object of that id."""
        return self._objects.get(name)

    def find(self, path: str, qom_type: str) -> UserObject | None:
        """Return the object of a type that a path leads to, which may begin anywhere.

        So an id is a path, too. None if there is none of that type, or more than one.
        """
        names = [name for name in path.split("/") if name]
        begins_anywhere = not path.startswith("/")

        def leads_to(name: str) -> bool:
            return names == ["objects", name] or (begins_anywhere and names in ([], [name]))

        found = [
            made
            for name, made in self._objects.items()
            if made.qom_type == qom_type and leads_to(name)
        ]
        return found[0] if len(found) == 1 else None

    def items(self) -> list[tuple[str, UserObject]]:
        """Return all ids with their objects, the oldest first."""
        return list(self._objects.items())

    async def create(self, system: "System", options: "ObjectOptions") -> None:
        """Make an object. Source: QAPI ``object-add``.

        Raises:
            QmpError: It is refused; nothing of it is left.
        """
        check_id(options.id)
        made = OBJECT_TYPES[options.qom_type](system, options.id)
        values = options.to_wire()
        for name in ordered(values):  # in QEMU's order: of several errors the first is told
            if name not in {"qom-type", "id"}:
                made.set_property(name, values[name])
        if options.id in self._objects:
            raise QmpError(
                f"attempt to add duplicate property '{options.id}' to object (type 'container')"
            )
        await made.complete()
        self._objects[options.id] = made
        self.used = True

    def remove(self, name: str) -> None:
        """Forget an object. Source: QAPI ``object-del``.

        Raises:
            QmpError: There is none of that id, or it is in use.
        """
        made = self._objects.get(name)
        if made is None:
            raise QmpError(f"object '{name}' not found")
        if not made.removable():
            raise QmpError(f"object '{name}' is in use, can not be deleted")
        del self._objects[name]
        made.removed()
