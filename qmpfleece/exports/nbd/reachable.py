"""An export as the NBD server sees it, and who is in it."""

from collections.abc import Mapping
from typing import Final, Protocol

from qmpfleece.block.backend import Backend
from qmpfleece.exports.nbd.context import Context
from qmpfleece.nbdproto.option import ExportInfo


class Guest(Protocol):
    """A connected client."""

    def disconnect(self) -> None:
        """Hang up; requests in flight run to their end."""


class Owner(Protocol):
    """The export that counts its users."""

    def enter(self) -> None:
        """Count a user."""

    def leave(self) -> None:
        """Undo one ``enter``."""


class Reachable:
    """What a connection needs of the export that it has entered.

    Args:
        owner: Counts the clients.
        info: What clients are told.
        backend: Where requests go.
        contexts: The metadata contexts by id.
        writethrough: Every write is made stable before it is acknowledged.
    """

    def __init__(
        self,
        owner: Owner,
        info: ExportInfo,
        backend: Backend,
        contexts: Mapping[int, Context],
        *,
        writethrough: bool,
    ) -> None:
        self.info: Final = info
        self.backend: Final = backend
        self.contexts: Final = contexts
        self.writethrough: Final = writethrough
        self._owner = owner
        self._guests: dict[Guest, None] = {}

    def enter(self, guest: Guest) -> None:
        """Let a client in."""
        self._guests[guest] = None
        self._owner.enter()

    def leave(self, guest: Guest) -> None:
        """Note that a client has gone and that nothing of it is in flight."""
        del self._guests[guest]
        self._owner.leave()

    def disconnect_all(self) -> None:
        """Hang up on all clients."""
        for guest in tuple(self._guests):
            guest.disconnect()
