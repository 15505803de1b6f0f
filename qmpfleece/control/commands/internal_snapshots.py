"""Snapshots inside of an image: blockdev-snapshot-internal-sync and its opposite.

Source: QAPI ``BlockdevSnapshotInternal``; checks, their order and texts as QEMU 7.2 has them.
"""

import sys
import time
from typing import Any, ClassVar

from qmpfleece.base.errors import QmpError
from qmpfleece.block.abilities import InternalSnapshots
from qmpfleece.block.drain import drained
from qmpfleece.block.driver import BlockDriver
from qmpfleece.block.node import Node
from qmpfleece.control import transaction
from qmpfleece.control.command import command
from qmpfleece.control.commands.backing_files import find_root
from qmpfleece.control.system import System
from qmpfleece.control.transaction import Action
from qmpfleece.qapi.model import Model


class BlockdevSnapshotInternalData(Model):
    """QAPI ``BlockdevSnapshotInternal``."""

    device: str
    name: str


def _keeper(node: Node) -> Node:
    """Return who keeps the snapshots of a node: itself, or the only node below it.

    It is what has to be drained: it may have other users than the node.
    """
    keeper = node
    while not isinstance(keeper.driver, InternalSnapshots):
        below = keeper.primary_child
        if below is None or len(keeper.children) > 1:
            return node  # nobody does
        keeper = below.node
    return keeper


def _list(keeper: BlockDriver[Any]) -> list[dict[str, Any]]:
    try:
        if not isinstance(keeper, InternalSnapshots):
            raise QmpError("Failed to get a snapshot list: Operation not supported")
        return keeper.internal_snapshots()
    except OSError as error:
        raise QmpError(f"Failed to get a snapshot list: {error.strerror}") from error


async def _delete(keeper: BlockDriver[Any], snapshot_id: str) -> None:
    """Delete a snapshot.

    Raises:
        QmpError: What of it could not be done.
    """
    assert isinstance(keeper, InternalSnapshots)
    try:
        await keeper.delete_snapshot(snapshot_id)
    except OSError as error:
        listed = any(item["id"] == snapshot_id for item in keeper.internal_snapshots())
        what = "remove snapshot from snapshot list" if listed else "free the cluster and L1 table"
        raise QmpError(f"Failed to {what}: {error.strerror}") from error


class InternalSnapshotAction(Action, type="blockdev-snapshot-internal-sync"):
    """Take a snapshot; undone by deleting it."""

    model: ClassVar[type[Model]] = BlockdevSnapshotInternalData
    _node: Node
    _below: Node
    _made: str | None = None

    async def prepare(self) -> None:
        """Take it. The node stays drained until ``clean``: what others keep is of that moment."""
        device, name = self.data.device, self.data.name
        below = await self.find_drained(lambda: _keeper(find_root(self.system, device)))
        node = self._node = find_root(self.system, device)
        self._below = below
        node.check_free()
        if node.read_only:
            raise QmpError(f"Device '{device}' is read only")
        keeper = below.driver
        if not isinstance(keeper, InternalSnapshots):
            raise QmpError(
                f"Block format '{node.driver.driver_name}' used by device '{device}' does"
                " not support internal snapshots"
            )
        if not name:
            raise QmpError("Name is empty")
        if any(item["name"] == name for item in _list(keeper)):
            raise QmpError(f"Snapshot with name '{name}' already exists on device '{device}'")
        now = time.time_ns() // 1000 * 1000
        clock = 0 if self.system.has_machine else now
        try:
            self._made = await keeper.take_snapshot(name, now, clock)
        except OSError as error:
            raise QmpError(
                f"Failed to create snapshot '{name}' on device '{device}': {error.strerror}"
            ) from error

    async def abort(self) -> None:
        """Delete it again. That it can't be done is told on stderr, as QEMU tells it."""
        if self._made is None:
            return
        try:
            await _delete(self._below.driver, self._made)
        except QmpError as error:
            drive = self.system.drives.of(self._node)
            sys.stderr.write(
                f"Failed to delete snapshot with id '{self._made}' and name '{self.data.name}'"
                f" on device '{drive.name if drive else ''}' in abort: {error.desc}\n"
            )
            sys.stderr.flush()


@command("blockdev-snapshot-internal-sync")
async def blockdev_snapshot_internal_sync(system: System, device: str, name: str) -> None:
    """Keep a disk as it is now, inside of its image."""
    data = BlockdevSnapshotInternalData(device=device, name=name)
    await transaction.run(system, [InternalSnapshotAction(system, data)])


@command("blockdev-snapshot-delete-internal-sync")
async def blockdev_snapshot_delete_internal_sync(
    system: System,
    device: str,
    id: str | None = None,  # noqa: A002 - the member's name
    name: str | None = None,
) -> dict[str, Any]:
    """Delete a snapshot, found by its id, its name, or both; tell what it was."""
    node = find_root(system, device)
    if id is None and name is None:
        raise QmpError("Name or id must be provided")
    below = _keeper(node)
    async with drained(below):
        node.check_free()
        keeper = below.driver
        found = next(
            (
                item
                for item in _list(keeper)
                if id in {None, item["id"]} and name in {None, item["name"]}
            ),
            None,
        )
        if found is None:
            raise QmpError(
                f"Snapshot with id '{'null' if id is None else id}' and name"
                f" '{'null' if name is None else name}' does not exist on device '{device}'"
            )
        await _delete(keeper, found["id"])
    return found
