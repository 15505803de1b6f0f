"""What the program says of itself while it runs."""

from qmpfleece.control.system import ShutdownCause
from qmpfleece.qapi.events import Event


class Shutdown(Event, name="SHUTDOWN"):
    """The program ends because it was asked to."""

    guest: bool
    reason: ShutdownCause


class Stop(Event, name="STOP"):
    """The guest, if there were one, has been stopped."""


class Resume(Event, name="RESUME"):
    """The guest, if there were one, runs again."""
