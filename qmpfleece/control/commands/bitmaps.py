"""The commands on dirty bitmaps, and the actions of transactions that do the same.

Nothing awaits but the removal from an image's file, so nothing is ever seen half done.

Source: QAPI, block-core, the block-dirty-bitmap-* commands.
"""

from typing import Annotated, ClassVar, Final

from qmpfleece.base import utf8
from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import KIB, SECTOR
from qmpfleece.bitmap.bits import GranularBits
from qmpfleece.bitmap.dirty import MAX_NAME_SIZE, DirtyBitmap, find_bitmap
from qmpfleece.block.abilities import PersistentBitmaps
from qmpfleece.block.node import Node
from qmpfleece.block.status import skip_filters
from qmpfleece.control.command import Boxed, command
from qmpfleece.control.system import System
from qmpfleece.control.transaction import Action
from qmpfleece.qapi.bitmaps import BlockDirtyBitmap, BlockDirtyBitmapOrStr
from qmpfleece.qapi.model import Model, Uint32

_MIN_DEFAULT_GRANULARITY: Final = 4 * KIB
_MAX_DEFAULT_GRANULARITY: Final = 64 * KIB


class BlockDirtyBitmapAdd(Model):
    """QAPI ``BlockDirtyBitmapAdd``."""

    node: str
    name: str
    granularity: Uint32 | None = None
    persistent: bool | None = None
    disabled: bool | None = None


class BlockDirtyBitmapMerge(Model):
    """QAPI ``BlockDirtyBitmapMerge``; sources are of the target's node, or of any."""

    node: str
    target: str
    bitmaps: list[BlockDirtyBitmapOrStr]


class BlockDirtyBitmapSha256(Model):
    """QAPI ``BlockDirtyBitmapSha256``."""

    sha256: str


def default_granularity(node: Node) -> int:
    """Return the granularity of a bitmap on ``node`` that nobody has asked for, in bytes."""
    cluster_size = skip_filters(node).driver.cluster_size
    if not cluster_size:
        return _MAX_DEFAULT_GRANULARITY
    return min(max(cluster_size, _MIN_DEFAULT_GRANULARITY), _MAX_DEFAULT_GRANULARITY)


class BitmapAction(Action):
    """A change of a bitmap that can be taken back; alone it is a command."""

    model: ClassVar[type[Model]] = BlockDirtyBitmap
    _changed = False

    def still(self) -> list[Node]:
        """Return the bitmap's node: what is recorded between a change and its undoing is lost."""
        try:
            return [self.system.graph.find(self.data.node)]
        except QmpError:
            return []  # which is refused later

    def find(self) -> DirtyBitmap:
        """Return the bitmap that is named.

        Raises:
            QmpError: There is none.
        """
        return self.system.graph.find_bitmap(self.data.node, self.data.name)[1]

    async def prepare(self) -> None:
        """Make the change."""
        await self.change()
        self._changed = True

    async def abort(self) -> None:
        """Take it back."""
        if self._changed:
            self.undo()

    async def run(self) -> None:
        """Do it alone.

        Raises:
            QmpError: It is refused.
        """
        await self.prepare()
        self.commit()

    async def change(self) -> None:
        """Make the change.

        Raises:
            QmpError: It is refused; nothing has changed.
        """
        raise NotImplementedError

    def undo(self) -> None:
        """Take the change back."""
        raise NotImplementedError


class AddBitmap(BitmapAction, type="block-dirty-bitmap-add"):
    """Create a bitmap."""

    model: ClassVar[type[Model]] = BlockDirtyBitmapAdd

    async def change(self) -> None:
        """Add the bitmap."""
        given = self.data
        name, granularity = given.name, given.granularity
        if not name:
            raise QmpError("Bitmap name cannot be empty")
        node = self.system.graph.find(given.node)
        if granularity is None:
            granularity = default_granularity(node)
        elif granularity < SECTOR or granularity & (granularity - 1):
            raise QmpError("Granularity must be power of 2 and at least 512")
        if given.persistent:
            self._check_storable(node, granularity)
        if any(bitmap.name == name for bitmap in node.bitmaps):
            raise QmpError(f"Bitmap already exists: {name}")
        if len(utf8.pack(name)) > MAX_NAME_SIZE:
            raise QmpError(f"Bitmap name too long: {name}")
        if not node.driver.has_medium:
            raise QmpError("could not get length of device: No medium found")
        self._node = node
        self._bitmap = DirtyBitmap(
            node.length,
            granularity,
            name,
            enabled=not given.disabled,
            persistent=bool(given.persistent),
        )
        node.bitmaps.insert(0, self._bitmap)

    def _check_storable(self, node: Node, granularity: int) -> None:
        driver, name = node.driver, self.data.name
        shown = node.device_name or node.name
        if not driver.has_medium:
            raise QmpError(f"Can't store persistent bitmaps to {shown}: No medium found")
        if not isinstance(driver, PersistentBitmaps):
            raise QmpError(f"Can't store persistent bitmaps to {shown}: Operation not supported")
        if (reason := driver.bitmap_refusal(name, granularity)) is not None:
            raise QmpError(f"Can't make bitmap '{name}' persistent in '{shown}': {reason}")

    def undo(self) -> None:
        """Remove it again."""
        self._node.bitmaps.remove(self._bitmap)


class RemoveBitmap(BitmapAction, type="block-dirty-bitmap-remove"):
    """Remove a bitmap."""

    async def change(self) -> None:
        """Withdraw the bitmap from everybody else, and take it from the image's file.

        It does not come back there when the transaction fails, before the image is closed:
        it would be in use, and so worth nothing, until then.
        """
        given = self.data
        self._node, self._bitmap = self.system.graph.find_bitmap(given.node, given.name)
        self._bitmap.check(allow_inconsistent=True)
        self._bitmap.busy = True
        driver = self._node.driver
        if self._bitmap.persistent and isinstance(driver, PersistentBitmaps):
            try:
                await driver.remove_persistent_bitmap(given.name)
            except BaseException:
                self._bitmap.busy = False
                raise

    def commit(self) -> None:
        """Remove it."""
        self._bitmap.busy = False
        self._node.bitmaps.remove(self._bitmap)

    def undo(self) -> None:
        """Give it back."""
        self._bitmap.busy = False


class ClearBitmap(BitmapAction, type="block-dirty-bitmap-clear"):
    """Make a bitmap clean."""

    _backup: GranularBits

    async def change(self) -> None:
        """Clear, keeping what was there."""
        self._bitmap = self.find()
        self._bitmap.check()
        self._backup = self._bitmap.clear()

    def undo(self) -> None:
        """Put back what was there."""
        self._bitmap.restore(self._backup)


class EnableBitmap(BitmapAction, type="block-dirty-bitmap-enable"):
    """Record writes from now on."""

    _enabled: ClassVar[bool] = True

    async def change(self) -> None:
        """Switch recording."""
        self._bitmap = self.find()
        self._bitmap.check(allow_readonly=True)
        self._before = self._bitmap.enabled
        self._bitmap.enabled = self._enabled

    def undo(self) -> None:
        """Switch back."""
        self._bitmap.enabled = self._before


class DisableBitmap(EnableBitmap, type="block-dirty-bitmap-disable"):
    """Record no more writes."""

    _enabled: ClassVar[bool] = False


class MergeBitmaps(BitmapAction, type="block-dirty-bitmap-merge"):
    """Add what is dirty in some bitmaps to another one, in all of them or in none."""

    model: ClassVar[type[Model]] = BlockDirtyBitmapMerge

    async def change(self) -> None:
        """Merge all sources into the target, keeping what was there."""
        given, graph = self.data, self.system.graph
        node, self._target = graph.find_bitmap(given.node, given.target)
        sources = []
        for reference in given.bitmaps:
            if isinstance(reference, str):
                source = find_bitmap(node.bitmaps, reference)
            else:
                _, source = graph.find_bitmap(reference.node, reference.name)
            self._target.check()
            source.check(allow_readonly=True)
            self._target.check_source(source)
            sources.append(source)
        self._backup = self._target.backup()
        try:
            for source in sources:
                self._target.merge(source)
        except BaseException:  # there may be no memory
            self.undo()
            raise

    def undo(self) -> None:
        """Put back what was there."""
        self._target.restore(self._backup)


@command("block-dirty-bitmap-add")
async def add(system: System, options: Annotated[BlockDirtyBitmapAdd, Boxed]) -> None:
    """Create a dirty bitmap and start recording writes, unless it is ``disabled``."""
    await AddBitmap(system, options).run()


@command("block-dirty-bitmap-remove")
async def remove(system: System, options: Annotated[BlockDirtyBitmap, Boxed]) -> None:
    """Remove a dirty bitmap."""
    await RemoveBitmap(system, options).run()


@command("block-dirty-bitmap-clear")
async def clear(system: System, options: Annotated[BlockDirtyBitmap, Boxed]) -> None:
    """Make a dirty bitmap clean."""
    await ClearBitmap(system, options).run()


@command("block-dirty-bitmap-enable")
async def enable(system: System, options: Annotated[BlockDirtyBitmap, Boxed]) -> None:
    """Record writes from now on."""
    await EnableBitmap(system, options).run()


@command("block-dirty-bitmap-disable")
async def disable(system: System, options: Annotated[BlockDirtyBitmap, Boxed]) -> None:
    """Record no more writes."""
    await DisableBitmap(system, options).run()


@command("block-dirty-bitmap-merge")
async def merge(system: System, options: Annotated[BlockDirtyBitmapMerge, Boxed]) -> None:
    """Add what is dirty in ``bitmaps`` to the bitmap ``target`` of ``node``."""
    await MergeBitmaps(system, options).run()


@command("x-debug-block-dirty-bitmap-sha256")
async def sha256(system: System, node: str, name: str) -> BlockDirtyBitmapSha256:
    """Return the SHA-256 of a bitmap's content."""
    _, bitmap = system.graph.find_bitmap(node, name)
    return BlockDirtyBitmapSha256(sha256=bitmap.bits.sha256())
