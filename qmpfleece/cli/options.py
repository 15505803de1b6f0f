"""What the options of the daemon take, and how their arguments become objects."""

from collections.abc import Callable
from typing import Any, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.cli import keyval
from qmpfleece.cli.scan import Spec
from qmpfleece.cli.typed import typed
from qmpfleece.cli.words import Informed
from qmpfleece.control.shape import Shape
from qmpfleece.control.visitor import visit
from qmpfleece.qmp.framer import Framer, Malformed

SPECS: Final = (
    Spec("blockdev"),
    Spec("chardev"),
    Spec("daemonize", argument=False),
    Spec("export"),
    Spec("help", argument=False, short="h"),
    Spec("monitor"),
    Spec("nbd-server"),
    Spec("object"),
    Spec("pidfile"),
    Spec("trace", short="T"),
    Spec("version", argument=False, short="V"),
)

HELP: Final = """\
usage: {program} [OPTION]...
A storage daemon that speaks QMP: block nodes, fleecing, NBD. The options are
those of qemu-storage-daemon; they are processed in the order given.

  --blockdev [driver=]DRIVER,node-name=NAME[,OPTION=VALUE...]
             open a block node; nested options have dots: file.driver=file.
             Drivers: {drivers}.
             Common options: read-only, auto-read-only, force-share (on|off),
             discard (ignore|unmap), detect-zeroes (off|on|unmap),
             cache.direct, cache.no-flush (on|off)
  --chardev socket,id=ID,path=PATH[,abstract=on][,server=on][,wait=off]
  --chardev socket,id=ID,host=HOST,port=PORT[,server=on][,wait=off]
  --chardev socket,id=ID,fd=FD[,server=on][,wait=off]
  --chardev stdio,id=ID
             a channel for a monitor
  --monitor [chardev=]ID[,pretty=on]
             speak QMP on a channel; a listening one takes any number of clients
  --nbd-server addr.type=unix,addr.path=PATH[,max-connections=N]
  --nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT[,max-connections=N]
             start the NBD server
  --export [type=]nbd,id=ID,node-name=NAME[,name=NAME][,writable=on]
           [,bitmaps.0=BITMAP...]
             export a node over NBD
  --object secret,id=ID,data=TEXT|file=FILE
  --object throttle-group,id=ID[,limits.bps-total=BYTES][,limits.iops-total=N...]
             define an object; --object help lists the types, TYPE,help its properties
  --pidfile FILE
             write the process ID to FILE once everything exists
  --daemonize
             go into the background once everything exists
  -T, --trace PATTERN
             taken for compatibility; there are no trace events
  -V, --version
             print the version and exit
  -h, --help print this text and exit

Each structured argument may also be JSON: --blockdev '{{"driver": ...}}'.
QMPFLEECE_LOOP=asyncio in the environment selects Python's own event loop.
"""


def structured(
    text: str,
    shape: Shape,
    implied: str | None = None,
    help_of: Callable[[str], str] | None = None,
) -> Any:
    """Return an option's argument as JSON of the given shape; unchecked if it was JSON.

    Args:
        text: The argument.
        shape: Its shape.
        implied: The key of a first value that stands without one.
        help_of: Returns the help about what the implied key has for a value; None: there is none.

    Raises:
        QmpError: It is malformed; QEMU's words.
        Informed: It asks for help.
    """
    if text.startswith("{"):
        return json_object(text)
    if help_of is None or implied is None:
        return typed(shape, keyval.parse(text, implied))
    tree, asked = keyval.parse_or_ask(text, implied)
    if asked:
        raise Informed(f"{help_of(str(tree.get(implied)))}\n")
    return typed(shape, tree)


def parse_as(shape: Shape, text: str, implied: str | None = None) -> Any:
    """Return what an option's argument makes.

    Raises:
        QmpError: It does not fit; QEMU's words.
    """
    return visit(shape, structured(text, shape, implied))


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object that an option's argument is.

    Raises:
        QmpError: It is malformed; QEMU's words.
    """
    # The line's end completes a last token, and may not complete a value.
    values = list(Framer().feed(text.encode("utf-8", "surrogateescape") + b"\n"))
    if not values:
        raise QmpError("JSON parse error, premature EOI")
    if isinstance(values[0], Malformed):
        raise QmpError(values[0].desc)
    if len(values) > 1:
        raise QmpError("Expecting at most one JSON value")
    value: dict[str, Any] = values[0]
    return value
