"""What a block driver is: its options and the verbs that it implements.

A driver is called by ``pipeline`` only, which has checked range and alignment, and by
``graph`` when nodes are opened, closed and connected. So drivers are short. All offsets and
lengths are bytes.

The I/O verbs return something to await. One that acts is an ``async def``; one that only
forwards returns what the next layer has returned, which saves a frame. The I/O may begin with
the call, so what a verb returns must be awaited at once, and a verb that has to do something
first must not call the next layer before. What is over by then is the constant ``DONE``: a
read that the page cache answers takes no coroutine at all.
"""

import errno
from collections.abc import Awaitable, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    NamedTuple,
    Protocol,
    TypeVar,
)

from mypy_extensions import mypyc_attr

from qmpfleece.base.eager import DONE
from qmpfleece.base.errors import BlockError
from qmpfleece.base.registry import Registry
from qmpfleece.block.perm import Perm, Role, default_perms
from qmpfleece.block.places import Places
from qmpfleece.qapi.bus import EventBus
from qmpfleece.qapi.drivers import DRIVER_FILES

if TYPE_CHECKING:
    from qmpfleece.base.fdsets import FdSets
    from qmpfleece.base.workers import Workers
    from qmpfleece.block.abilities import SnapshotSource
    from qmpfleece.block.child import Child
    from qmpfleece.block.graph import Graph
    from qmpfleece.block.node import Node, NodeOptions
    from qmpfleece.block.throttle_group import ThrottleGroup
    from qmpfleece.qapi.blockdev import BlockdevOptions

O = TypeVar("O", bound="BlockdevOptions")  # noqa: E741 - the customary name of the parameter

#: An I/O verb in progress, or over: DONE.
Io = Awaitable[None]


class ReqFlags:
    """Flags of a request, plain integers because they are tested on the hot path."""

    NONE: Final = 0
    #: The data is on stable storage when the request ends.
    FUA: Final = 1
    #: Zeroes may be written by deallocating.
    MAY_UNMAP: Final = 2
    #: Fail with ENOTSUP rather than write zeroes the slow way.
    NO_FALLBACK: Final = 4
    #: The visible content does not change: needs WRITE_UNCHANGED only.
    WRITE_UNCHANGED: Final = 8
    #: Wait for all overlapping requests on the node, and hold back later ones.
    SERIALISING: Final = 16


class Status:
    """Bits of a block status, plain integers. Source: QEMU, the BDRV_BLOCK_* bits."""

    #: Reading gives data that this chain stores.
    DATA: Final = 1
    #: Reading gives zeroes.
    ZERO: Final = 2
    #: ``host_offset`` in ``node`` is where the data lies.
    OFFSET_VALID: Final = 4
    #: The content is determined by this layer, not by its backing file.
    ALLOCATED: Final = 16
    #: The extent ends at the end of the image.
    EOF: Final = 32
    #: The data is stored compressed.
    COMPRESSED: Final = 128


class Extent(NamedTuple):
    """A run of equal block status.

    Attributes:
        length: Bytes, more than 0.
        flags: Bits of ``Status``.
        host_offset: Where the data lies in ``node``, -1 without OFFSET_VALID.
        node: The node that holds the data, None if it is not known.
    """

    length: int
    flags: int
    host_offset: int = -1
    node: "Node | None" = None


class Opener(Protocol):
    """What a driver may do while its node is opened. Implemented by ``opener``."""

    workers: "Workers"
    fdsets: "FdSets"
    events: EventBus
    #: By the ids of their objects.
    throttle_groups: "Mapping[str, ThrottleGroup]"
    #: The driver was chosen by what the image looks like.
    probed: bool

    async def open_node(self, name: str, ref: "str | BlockdevOptions") -> "Node":
        """Do the first half of ``open_child``: what is opened is attached by that, or closed.

        Raises:
            QmpError: It can't be opened, or there is none.
        """
        ...

    async def open_child(self, name: str, ref: "str | BlockdevOptions", role: Role) -> "Child":
        """Open a nested definition, or find the node of that name, and attach it.

        Raises:
            QmpError: The child can't be opened or attached; the graph undoes the rest.
        """
        ...

    def find(self, node_name: str) -> "Node":
        """Return the node of that name.

        Raises:
            QmpError: There is none.
        """
        ...


class Reopening(Generic[O]):
    """Other options for an open node.

    Attributes:
        node: The node.
        given: What is given of it.
        options: The same, resolved.
        graph: Where it lives.
        keep: Only options of every node change; the others stay.
        nested: The node is defined within the definition of the one above it.
        said: What is said as text from then on, as in the node.
        moves: Other nodes for its children, by the children's names; None: none. To be seen
            by ``reopen_commit``.
    """

    __slots__ = ("given", "graph", "keep", "moves", "nested", "node", "options", "said")

    def __init__(
        self,
        node: "Node",
        given: O,
        options: "NodeOptions",
        graph: "Graph",
        *,
        keep: bool,
        nested: bool,
    ) -> None:
        self.node = node
        self.given = given
        self.options = options
        self.graph = graph
        self.keep = keep
        self.nested = nested
        self.said: dict[str, str] = dict(node.said) if keep else {}
        self.moves: dict[str, Node | None] = {}


#: Every driver by its name in ``BlockdevDriver``.
DRIVERS: Final[Registry[type["BlockDriver[Any]"]]] = Registry("block driver", DRIVER_FILES)


@mypyc_attr(allow_interpreted_subclasses=True)
class BlockDriver(Generic[O]):
    """Base of all drivers; knows how a filter over ``file`` behaves.

    Attributes:
        node: The node that has this driver. Its ``length`` and ``request_alignment`` are set
            by ``open`` and by resizing.
        options: What the node was opened with.
    """

    #: The name in ``BlockdevDriver``.
    driver_name: ClassVar[str]
    #: A filter shows the data of its ``filtered_child`` unchanged.
    is_filter: ClassVar[bool] = False
    #: Protocol drivers reach outside; they have no child to store things in.
    is_protocol: ClassVar[bool] = False
    #: A flush is one of the children, written to or not; ``Node.debug`` is not told of it.
    passes_flush: ClassVar[bool] = False
    #: Its flush gives the system metadata that it alone has, so ``cache.no-flush`` skips only the
    #: flushes of its children.
    holds_metadata: ClassVar[bool] = False
    #: A flush goes on to all children that are written to, except these.
    unflushed_children: ClassVar[tuple[str, ...]] = ()
    #: Wire names of the options that decide what data the node shows; they make up its
    #: ``json:`` file name when no plain one will do.
    strong_options: ClassVar[tuple[str, ...]] = ()
    #: The flags of ReqFlags that pwrite handles itself; FUA is emulated by a flush otherwise.
    write_flags: ClassVar[int] = ReqFlags.NONE
    #: The same for pwrite_zeroes.
    zero_flags: ClassVar[int] = ReqFlags.NONE
    #: Whether a child ``backing`` may be attached and detached while the node is open.
    supports_backing: ClassVar[bool] = False
    #: Whether a discard is a request at all.
    discards: ClassVar[bool] = True
    #: Whether ``pwrite_compressed`` is there.
    compresses: ClassVar[bool] = False

    #: Wire names of the options, besides those of every node, that may change while the node
    #: is open; None: it can't be reopened at all.
    mutable_options: ClassVar[frozenset[str] | None] = None
    #: Those of them that have no default.
    required_options: ClassVar[frozenset[str]] = frozenset()

    node: "Node"
    options: O

    def __init__(self, node: "Node", options: O) -> None:
        self.node = node
        self.options = options

    @classmethod
    def definition_of(cls, name: str) -> dict[str, Any] | None:
        """Return the definition of the node that the file name ``DRIVER:name`` means.

        None if no file name means a node of this driver.

        Raises:
            QmpError: The name is wrong.
        """
        return None

    # -- opening, closing ---------------------------------------------------------------------

    async def open(self, opener: Opener) -> None:
        """Open children and resources; set the node's length.

        Raises:
            QmpError: It can't be opened. Children attached so far are detached by the graph;
                other resources are released here.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Release everything. Requests have ended; children are detached afterwards."""

    async def reopen_prepare(self, change: "Reopening[O]") -> None:
        """Get ready for other options. The node is drained and flushed.

        Raises:
            QmpError: It can't have them; ``reopen_abort`` is called all the same.
        """

    def reopen_commit(self) -> None:
        """Act on what was prepared: options, edges and permissions are the new ones."""

    async def reopen_abort(self) -> None:
        """Undo ``reopen_prepare``, which may have failed half-way."""

    async def reopen_finish(self) -> None:
        """Do what takes I/O, once all nodes have their new options; still drained.

        What fails is told on stderr, not raised: the options of all stay in force.
        """

    # -- requests -----------------------------------------------------------------------------

    def pread(self, offset: int, buf: memoryview) -> Io:
        """Fill ``buf``. It must not be kept after the await, nor when DONE is returned.

        Raises:
            OSError: The read failed; the content of ``buf`` is undefined.
        """
        raise NotImplementedError

    def locate(self, offset: int, length: int, places: Places) -> bool:
        """Say where the data of a read lies, for somebody else to read it there.

        It must be what ``pread`` would read until ``places`` is released. When it was not in
        the page cache, or fewer bytes were there, ``pread`` is asked after all.

        Args:
            offset: As for ``pread``.
            length: More than 0.
            places: What was found is added to it.

        Returns:
            False when only ``pread`` can tell; what was added until then is released.
        """
        return False

    def pwrite(self, offset: int, buf: memoryview, flags: int) -> Io:
        """Write ``buf``; ``flags`` is a subset of ``write_flags``."""
        raise NotImplementedError

    def pwrite_compressed(self, offset: int, buf: memoryview) -> Io:
        """Write whole clusters, which hold no data yet, compressed."""
        return fail(errno.ENOTSUP)

    def pwrite_zeroes(self, offset: int, length: int, flags: int) -> Io:
        """Write zeroes cheaply; ``flags`` is a subset of ``zero_flags``.

        Raises:
            OSError: ENOTSUP: there is no cheap way, the pipeline writes a buffer of zeroes.
        """
        return fail(errno.ENOTSUP)

    def pdiscard(self, offset: int, length: int) -> Io:
        """Say that the content is no longer needed. It may be ignored."""
        return DONE

    def flush(self) -> Io:
        """Make all completed writes stable."""
        return DONE

    def change_backing(self, name: str, backing_format: str) -> Io:
        """Say in the image that its backing file has another name and format.

        Raises:
            OSError: EINVAL: the name is too long; ENOTSUP: the driver can't.
        """
        return fail(errno.ENOTSUP)

    async def truncate(self, length: int) -> int:
        """Change the node's size to ``length`` bytes; what is new reads as zeroes.

        Returns:
            The size that came of it, in bytes: a device stays as it is.

        Raises:
            OSError: ENOTSUP: the driver can't.
        """
        raise BlockError(errno.ENOTSUP)

    async def block_status(self, offset: int, length: int, limit: int) -> list[Extent]:
        """Return up to ``limit`` extents, the first starting at ``offset``.

        They follow each other without gap, at least one, and end at ``offset + length`` or
        before. ``length`` is at least 1 and within the node.
        """
        return [Extent(length, Status.DATA | Status.ALLOCATED, offset, self.node)]

    def is_known_data(self, offset: int, length: int) -> bool:
        """Tell, without looking, whether all of the range is data of this node.

        Where not, ``block_status`` tells. Nothing is ever zero because of this.
        """
        return False

    def is_past_end(self, offset: int) -> bool:
        """Tell, without waiting, whether nothing is stored at ``offset`` or behind it.

        What a write there leaves out then reads as zeroes. Asked before the first write there.

        Returns:
            False when only looking can tell.
        """
        child = self.filtered_child
        return child is not None and child.node.driver.is_past_end(offset)

    def child_resized(self) -> None:
        """Take note that a child is of another length; most drivers know what they are told."""

    # -- what the graph asks ------------------------------------------------------------------

    @property
    def has_medium(self) -> bool:
        """Whether this is no image that was found to be corrupt; see ``Node.has_medium``."""
        return True

    @property
    def filtered_child(self) -> "Child | None":
        """The child whose data a filter shows."""
        return self.node.children.get("file") if self.is_filter else None

    def child_perms(self, child: str, role: Role, perm: Perm, shared: Perm) -> tuple[Perm, Perm]:
        """Return what this node needs of and shares on a child, given its own users."""
        return default_perms(role, perm, shared, writable=not self.node.read_only)

    def check_perm(self, perm: Perm, shared: Perm) -> None:
        """Get ready for the cumulative permissions of the node's users; synchronous.

        Raises:
            QmpError: They can't be granted. Nothing has changed then.
        """

    def set_perm(self) -> None:
        """Keep what the last ``check_perm`` prepared."""

    def abort_perm(self) -> None:
        """Go back to what was before the last ``check_perm``."""

    # -- what queries ask ---------------------------------------------------------------------

    def exact_filename(self) -> str:
        """Return a plain file name that would open this node alike, or ``""``."""
        child = self.filtered_child
        return child.node.exact_filename if child is not None else ""

    @property
    def snapshot_source(self) -> "SnapshotSource | None":
        """What shows the node as it was at one moment, if the driver keeps that."""
        return None

    @property
    def cluster_size(self) -> int:
        """The allocation unit in bytes, 0 if there is none (``bdi.cluster_size``)."""
        child = self.filtered_child
        return child.node.driver.cluster_size if child is not None else 0

    @property
    def vm_state_offset(self) -> int:
        """Where a machine's state would be saved, in bytes past the disk's end; 0 for nowhere.

        Source: QEMU, ``bdi.vm_state_offset``.
        """
        child = self.filtered_child
        return child.node.driver.vm_state_offset if child is not None else 0

    @property
    def names_backing(self) -> bool:
        """Whether the image names a backing file."""
        return False

    @property
    def overrides_backing(self) -> bool:
        """Whether another backing file is in use than the image names."""
        return False

    def image_info(self) -> dict[str, Any]:
        """Return what only a format driver knows about its image.

        Members of ``ImageInfo`` by their Python names, such as ``format_specific``.
        """
        return {}

    def statistics(self) -> dict[str, Any] | None:
        """Return what only the driver counts: ``BlockStatsSpecific`` without ``driver``."""
        return None

    async def allocated_size(self) -> int | None:
        """Return the bytes occupied on the host, None if that is unknown."""
        child = self.node.children.get("file")
        return await child.node.driver.allocated_size() if child is not None else None


def register(driver: type[BlockDriver[Any]], module: str) -> None:
    """Make a driver known by its name; the module that has it calls this."""
    DRIVERS.add(driver.driver_name, driver, module)


async def fail(code: int) -> None:
    """Fail with the given errno."""
    raise BlockError(code)
