"""The objects that users create with object-add: secrets, throttle groups.

They are what ``/objects`` of QEMU's object tree holds. This knows their names and types; what an
object does is the business of its class.
"""

from typing import Protocol

from qmpfleece.base.errors import QmpError


class UserObject(Protocol):
    """An object that a user has made and may remove."""

    #: The QAPI name of its type, e.g. ``throttle-group``.
    @property
    def qom_type(self) -> str: ...  # noqa: D102 - said above

    def removable(self) -> bool:
        """Tell whether nobody uses it."""
        ...


class Objects:
    """The objects by their ids, in the order of their making."""

    def __init__(self) -> None:
        self._objects: dict[str, UserObject] = {}

    def get(self, name: str) -> UserObject | None:
        """Return the object of that id."""
        return self._objects.get(name)

    def items(self) -> list[tuple[str, UserObject]]:
        """Return all ids with their objects, the oldest first."""
        return list(self._objects.items())

    def add(self, name: str, made: UserObject) -> None:
        """Give an object its id.

        Raises:
            QmpError: The id is taken.
        """
        if name in self._objects:
            raise QmpError(
                f"attempt to add duplicate property '{name}' to object (type 'container')"
            )
        self._objects[name] = made

    def remove(self, name: str) -> None:
        """Forget an object.

        Raises:
            QmpError: There is none of that id, or it is in use.
        """
        made = self._objects.get(name)
        if made is None:
            raise QmpError(f"object '{name}' not found")
        if not made.removable():
            raise QmpError(f"object '{name}' is in use, can not be deleted")
        del self._objects[name]
