"""The block-dirty-bitmap-* actions of a transaction: the same changes as the commands.

Source: QAPI ``TransactionAction``.
"""

from typing import Any, ClassVar

from qmpfleece.base.errors import QmpError
from qmpfleece.block.node import Node
from qmpfleece.control.commands.bitmaps import (
    AddBitmap,
    BitmapAction,
    BlockDirtyBitmapOrStr,
    ClearBitmap,
    MergeBitmaps,
    RemoveBitmap,
    SwitchBitmap,
)
from qmpfleece.control.system import System
from qmpfleece.control.transaction import Action
from qmpfleece.jobs.txn import JobTxn
from qmpfleece.qapi.bitmaps import BlockDirtyBitmap
from qmpfleece.qapi.model import Model, Uint32


class BlockDirtyBitmapAdd(Model):
    """QAPI ``BlockDirtyBitmapAdd``."""

    node: str
    name: str
    granularity: Uint32 | None = None
    persistent: bool | None = None
    disabled: bool | None = None


class BlockDirtyBitmapMerge(Model):
    """QAPI ``BlockDirtyBitmapMerge``."""

    node: str
    target: str
    bitmaps: list[BlockDirtyBitmapOrStr]


class _Change(Action):
    """A change of a bitmap as an action."""

    model: ClassVar[type[Model]] = BlockDirtyBitmap

    def __init__(self, system: System, data: Any, txn: JobTxn | None = None) -> None:
        super().__init__(system, data, txn)
        self._change = self.make_change()
        self._prepared = False

    def make_change(self) -> BitmapAction:
        """Return the change that the data asks for."""
        raise NotImplementedError

    def still(self) -> list[Node]:
        """Return the bitmap's node: what is recorded between a change and its undoing is lost."""
        try:
            return [self.system.graph.find(self.data.node)]
        except QmpError:
            return []  # which will be refused

    async def prepare(self) -> None:
        """Make the change."""
        await self._change.prepare()
        self._prepared = True

    def commit(self) -> None:
        """Make it final."""
        self._change.commit()

    async def abort(self) -> None:
        """Take it back."""
        if self._prepared:
            self._change.abort()


class Add(_Change, type="block-dirty-bitmap-add"):
    """Create a bitmap."""

    model: ClassVar[type[Model]] = BlockDirtyBitmapAdd

    def make_change(self) -> BitmapAction:
        """Return the change."""
        return AddBitmap(
            self.system,
            self.data.node,
            self.data.name,
            granularity=self.data.granularity,
            persistent=bool(self.data.persistent),
            disabled=bool(self.data.disabled),
        )


class Remove(_Change, type="block-dirty-bitmap-remove"):
    """Remove a bitmap."""

    def make_change(self) -> BitmapAction:
        """Return the change."""
        return RemoveBitmap(self.system, self.data.node, self.data.name)


class Clear(_Change, type="block-dirty-bitmap-clear"):
    """Make a bitmap clean."""

    def make_change(self) -> BitmapAction:
        """Return the change."""
        return ClearBitmap(self.system, self.data.node, self.data.name)


class Enable(_Change, type="block-dirty-bitmap-enable"):
    """Record writes."""

    def make_change(self) -> BitmapAction:
        """Return the change."""
        return SwitchBitmap(self.system, self.data.node, self.data.name, enabled=True)


class Disable(_Change, type="block-dirty-bitmap-disable"):
    """Record no more writes."""

    def make_change(self) -> BitmapAction:
        """Return the change."""
        return SwitchBitmap(self.system, self.data.node, self.data.name, enabled=False)


class Merge(_Change, type="block-dirty-bitmap-merge"):
    """Add what is dirty in some bitmaps to another one."""

    model: ClassVar[type[Model]] = BlockDirtyBitmapMerge

    def make_change(self) -> BitmapAction:
        """Return the change."""
        return MergeBitmaps(self.system, self.data.node, self.data.target, self.data.bitmaps)
