"""The commands on dirty bitmaps.

What changes something is an action with prepare, commit and abort, and the command is a
transaction of one. ``prepare`` does all that can be refused; after it exactly one of the
others is called. Nothing awaits but the removal from an image's file, so nothing is ever seen
half done.

Source: QAPI, block-core, the block-dirty-bitmap-* commands.
"""

from typing import Annotated, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import KIB, SECTOR
from qmpfleece.bitmap.bits import GranularBits
from qmpfleece.bitmap.dirty import MAX_NAME_SIZE, DirtyBitmap, find_bitmap
from qmpfleece.block.abilities import PersistentBitmaps
from qmpfleece.block.node import Node
from qmpfleece.block.status import skip_filters
from qmpfleece.control.command import command
from qmpfleece.control.system import System
from qmpfleece.qapi.alternate import Alternate
from qmpfleece.qapi.bitmaps import BlockDirtyBitmap
from qmpfleece.qapi.model import Model, Uint32

_MIN_DEFAULT_GRANULARITY: Final = 4 * KIB
_MAX_DEFAULT_GRANULARITY: Final = 64 * KIB

#: A bitmap of the target's node by name, or one of any node.
BlockDirtyBitmapOrStr = Annotated[str | BlockDirtyBitmap, Alternate("BlockDirtyBitmapOrStr")]


class BlockDirtyBitmapSha256(Model):
    """QAPI ``BlockDirtyBitmapSha256``."""

    sha256: str


def default_granularity(node: Node) -> int:
    """Return the granularity of a bitmap on ``node`` that nobody has asked for, in bytes."""
    cluster_size = skip_filters(node).driver.cluster_size
    if not cluster_size:
        return _MAX_DEFAULT_GRANULARITY
    return min(max(cluster_size, _MIN_DEFAULT_GRANULARITY), _MAX_DEFAULT_GRANULARITY)


class BitmapAction:
    """A change that can be taken back."""

    def __init__(self, system: System) -> None:
        self.system: Final = system

    async def prepare(self) -> None:
        """Make the change.

        Raises:
            QmpError: It is refused; nothing has changed.
        """
        raise NotImplementedError

    def commit(self) -> None:
        """Make it final."""

    def abort(self) -> None:
        """Take it back."""

    async def run(self) -> None:
        """Do it alone.

        Raises:
            QmpError: It is refused.
        """
        await self.prepare()
        self.commit()


class AddBitmap(BitmapAction):
    """block-dirty-bitmap-add."""

    def __init__(
        self,
        system: System,
        node: str,
        name: str,
        *,
        granularity: int | None,
        persistent: bool,
        disabled: bool,
    ) -> None:
        super().__init__(system)
        self._node_name = node
        self._name = name
        self._granularity = granularity
        self._persistent = persistent
        self._disabled = disabled

    async def prepare(self) -> None:
        """Add the bitmap."""
        name = self._name
        if not name:
            raise QmpError("Bitmap name cannot be empty")
        node = self.system.graph.find(self._node_name)
        granularity = self._granularity
        if granularity is None:
            granularity = default_granularity(node)
        elif granularity < SECTOR or granularity & (granularity - 1):
            raise QmpError("Granularity must be power of 2 and at least 512")
        if self._persistent:
            self._check_storable(node, granularity)
        if any(bitmap.name == name for bitmap in node.bitmaps):
            raise QmpError(f"Bitmap already exists: {name}")
        if len(name.encode()) > MAX_NAME_SIZE:
            raise QmpError(f"Bitmap name too long: {name}")
        if not node.driver.has_medium:
            raise QmpError("could not get length of device: No medium found")
        self._node = node
        self._bitmap = DirtyBitmap(
            node.length,
            granularity,
            name,
            enabled=not self._disabled,
            persistent=self._persistent,
        )
        node.bitmaps.insert(0, self._bitmap)

    def _check_storable(self, node: Node, granularity: int) -> None:
        driver, shown = node.driver, node.device_name or node.name
        if not driver.has_medium:
            raise QmpError(f"Can't store persistent bitmaps to {shown}: No medium found")
        if not isinstance(driver, PersistentBitmaps):
            raise QmpError(f"Can't store persistent bitmaps to {shown}: Operation not supported")
        if (reason := driver.bitmap_refusal(self._name, granularity)) is not None:
            raise QmpError(f"Can't make bitmap '{self._name}' persistent in '{shown}': {reason}")

    def abort(self) -> None:
        """Remove it again."""
        self._node.bitmaps.remove(self._bitmap)


class RemoveBitmap(BitmapAction):
    """block-dirty-bitmap-remove."""

    def __init__(self, system: System, node: str, name: str) -> None:
        super().__init__(system)
        self._node_name = node
        self._name = name

    async def prepare(self) -> None:
        """Withdraw the bitmap from everybody else, and take it from the image's file.

        It does not come back there when the transaction fails, before the image is closed:
        it would be in use, and so worth nothing, until then.
        """
        self._node, self._bitmap = self.system.graph.find_bitmap(self._node_name, self._name)
        self._bitmap.check(allow_inconsistent=True)
        self._bitmap.busy = True
        driver = self._node.driver
        if self._bitmap.persistent and isinstance(driver, PersistentBitmaps):
            try:
                await driver.remove_persistent_bitmap(self._name)
            except QmpError:
                self._bitmap.busy = False
                raise

    def commit(self) -> None:
        """Remove it."""
        self._bitmap.busy = False
        self._node.bitmaps.remove(self._bitmap)

    def abort(self) -> None:
        """Give it back."""
        self._bitmap.busy = False


class ClearBitmap(BitmapAction):
    """block-dirty-bitmap-clear."""

    def __init__(self, system: System, node: str, name: str) -> None:
        super().__init__(system)
        self._node_name = node
        self._name = name
        self._backup: GranularBits

    async def prepare(self) -> None:
        """Clear, keeping what was there."""
        _, self._bitmap = self.system.graph.find_bitmap(self._node_name, self._name)
        self._bitmap.check()
        self._backup = self._bitmap.clear()

    def abort(self) -> None:
        """Put back what was there."""
        self._bitmap.restore(self._backup)


class SwitchBitmap(BitmapAction):
    """block-dirty-bitmap-enable and -disable."""

    def __init__(self, system: System, node: str, name: str, *, enabled: bool) -> None:
        super().__init__(system)
        self._node_name = node
        self._name = name
        self._enabled = enabled

    async def prepare(self) -> None:
        """Switch recording."""
        _, self._bitmap = self.system.graph.find_bitmap(self._node_name, self._name)
        self._bitmap.check(allow_readonly=True)
        self._before = self._bitmap.enabled
        self._bitmap.enabled = self._enabled

    def abort(self) -> None:
        """Switch back."""
        self._bitmap.enabled = self._before


class MergeBitmaps(BitmapAction):
    """block-dirty-bitmap-merge: the sources are checked first, so that all or none are merged."""

    def __init__(
        self, system: System, node: str, target: str, bitmaps: list[str | BlockDirtyBitmap]
    ) -> None:
        super().__init__(system)
        self._node_name = node
        self._target_name = target
        self._sources = bitmaps

    async def prepare(self) -> None:
        """Merge all sources into the target, keeping what was there."""
        node, self._target = self.system.graph.find_bitmap(self._node_name, self._target_name)
        sources = []
        for reference in self._sources:
            if isinstance(reference, str):
                source = find_bitmap(node.bitmaps, reference)
            else:
                _, source = self.system.graph.find_bitmap(reference.node, reference.name)
            self._target.check()
            source.check(allow_readonly=True)
            self._target.check_source(source)
            sources.append(source)
        self._backup = self._target.backup()
        for source in sources:
            self._target.merge(source)

    def abort(self) -> None:
        """Put back what was there."""
        self._target.restore(self._backup)


@command("block-dirty-bitmap-add")
async def add(
    system: System,
    node: str,
    name: str,
    granularity: Uint32 | None = None,
    persistent: bool | None = None,  # noqa: FBT001 - members come by name
    disabled: bool | None = None,  # noqa: FBT001 - members come by name
) -> None:
    """Create a dirty bitmap and start recording writes, unless it is ``disabled``."""
    await AddBitmap(
        system,
        node,
        name,
        granularity=granularity,
        persistent=bool(persistent),
        disabled=bool(disabled),
    ).run()


@command("block-dirty-bitmap-remove")
async def remove(system: System, node: str, name: str) -> None:
    """Remove a dirty bitmap."""
    await RemoveBitmap(system, node, name).run()


@command("block-dirty-bitmap-clear")
async def clear(system: System, node: str, name: str) -> None:
    """Make a dirty bitmap clean."""
    await ClearBitmap(system, node, name).run()


@command("block-dirty-bitmap-enable")
async def enable(system: System, node: str, name: str) -> None:
    """Record writes from now on."""
    await SwitchBitmap(system, node, name, enabled=True).run()


@command("block-dirty-bitmap-disable")
async def disable(system: System, node: str, name: str) -> None:
    """Record no more writes."""
    await SwitchBitmap(system, node, name, enabled=False).run()


@command("block-dirty-bitmap-merge")
async def merge(
    system: System, node: str, target: str, bitmaps: list[BlockDirtyBitmapOrStr]
) -> None:
    """Add what is dirty in ``bitmaps`` to the bitmap ``target`` of ``node``."""
    await MergeBitmaps(system, node, target, bitmaps).run()


@command("x-debug-block-dirty-bitmap-sha256")
async def sha256(system: System, node: str, name: str) -> BlockDirtyBitmapSha256:
    """Return the SHA-256 of a bitmap's content."""
    _, bitmap = system.graph.find_bitmap(node, name)
    return BlockDirtyBitmapSha256(sha256=bitmap.bits.sha256())
