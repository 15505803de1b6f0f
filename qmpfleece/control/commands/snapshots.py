"""blockdev-snapshot and blockdev-snapshot-sync: put an overlay above a node that is in use.

Whatever uses the node uses the overlay from then on, and the node becomes its backing file.

Source: QAPI ``BlockdevSnapshot``, ``BlockdevSnapshotSync``.
"""

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.block import pipeline, reopen
from qmpfleece.block.child import Child
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Perm, Role
from qmpfleece.control import images, transaction
from qmpfleece.control.command import command
from qmpfleece.control.describe import filename
from qmpfleece.control.system import System
from qmpfleece.control.transaction import Action
from qmpfleece.jobs.txn import JobTxn
from qmpfleece.jobs.users import movable
from qmpfleece.qapi.model import Model


class BlockdevSnapshotData(Model):
    """QAPI ``BlockdevSnapshot``."""

    node: str
    overlay: str


class BlockdevSnapshotSyncData(Model):
    """QAPI ``BlockdevSnapshotSync``.

    Attributes:
        device: The device to take the snapshot of.
        node_name: The node, instead.
        snapshot_file: The file name of the overlay.
        snapshot_node_name: The overlay's node name.
        format: Its driver, qcow2 by default.
        mode: Whether the overlay is made.
    """

    device: str | None = None
    node_name: str | None = None
    snapshot_file: str
    snapshot_node_name: str | None = None
    format: str | None = None
    mode: Literal["existing", "absolute-paths"] | None = None


class SnapshotAction(Action):
    """Append an overlay."""

    def __init__(self, system: System, data: Any, txn: JobTxn | None = None) -> None:
        super().__init__(system, data, txn)
        self._below: Node
        self._overlay: Node | None = None
        self._backing: Child | None = None
        self._before: list[Child] = []
        self._committed = False

    async def find_below(self, find: Callable[[], Node]) -> Node:
        """Return the node that ``find`` finds, for the overlay to go above.

        It is drained until ``clean``, and all that was written to it is stable.

        Raises:
            QmpError: There is none, or it is busy, or can't be flushed.
        """
        below = self._below = await self.find_drained(find)
        below.check_free()
        if not below.read_only:
            try:
                await pipeline.flush_node(below)
            except OSError as error:
                raise QmpError("An IO error has occurred") from error
        return below

    def append(self, overlay: Node) -> None:
        """Put the overlay above the node.

        Raises:
            QmpError: It can't be an overlay; nothing has changed.
        """
        self._overlay = overlay
        self._before = list(overlay.parents)
        perm, _ = overlay.users_perm()
        if perm & Perm.CONSISTENT_READ or self.system.drives.of(overlay) is not None:
            raise QmpError("The overlay is already in use")
        if overlay.driver.is_filter:
            raise QmpError("Filters cannot be used as overlays")
        if "backing" in overlay.children:
            raise QmpError("The overlay already has a backing image")
        if not overlay.driver.supports_backing:
            raise QmpError("The overlay does not support backing images")
        graph = self.system.graph
        self._backing = graph.attach_child(overlay, "backing", Role.COW, self._below)
        graph.replace_node(movable(self._below, overlay), overlay)

    async def abort(self) -> None:
        """Take the overlay out again."""
        self._committed = False
        graph, overlay = self.system.graph, self._overlay
        if overlay is None:
            return
        if self._backing is not None:
            # Not always those that have been moved: a job may have led others here since.
            edges = [edge for edge in overlay.parents if edge not in self._before]
            graph.replace_node(edges, self._below)
            graph.detach(self._backing)
        self._overlay = None
        await graph.release(overlay)

    def commit(self) -> None:
        """From now on the node is a backing file."""
        self._committed = True

    async def clean(self) -> None:
        """Make the backing file read-only and let it go; close an overlay that nobody holds."""
        try:
            if self._committed:
                with contextlib.suppress(QmpError, OSError):  # it stays writable where it must
                    await reopen.set_read_only(self.system.graph, self._below, read_only=True)
        finally:
            await super().clean()
        if self._overlay is not None:
            await self.system.graph.release(self._overlay)


class BlockdevSnapshotAction(SnapshotAction, type="blockdev-snapshot"):
    """Append a node that is there."""

    model: ClassVar[type[Model]] = BlockdevSnapshotData

    async def prepare(self) -> None:
        """Append it."""
        graph = self.system.graph
        await self.find_below(lambda: graph.find(self.data.node))
        self.append(graph.find(self.data.overlay))


class BlockdevSnapshotSyncAction(SnapshotAction, type="blockdev-snapshot-sync"):
    """Make an image and append it."""

    model: ClassVar[type[Model]] = BlockdevSnapshotSyncData

    async def prepare(self) -> None:
        """Make, open and append the image."""
        graph, given = self.system.graph, self.data
        below = await self.find_below(lambda: graph.look_up(given.device, given.node_name))
        overlay_name = given.snapshot_node_name
        if overlay_name is None and given.node_name is not None:
            raise QmpError("New overlay node-name missing")
        if overlay_name is not None and graph.get(overlay_name) is not None:
            raise QmpError("New overlay node-name already in use")
        image_format = given.format or "qcow2"
        if given.mode != "existing":
            backing = (filename(below), below.driver.driver_name)
            await images.create_image(
                graph, given.snapshot_file, image_format, below.length, backing
            )
        options: dict[str, Any] = {"node-name": overlay_name} if overlay_name else {}
        options["read-only"] = below.read_only
        if image_format == "qcow2":
            options["backing"] = None
        self.append(
            await images.open_image(
                graph, given.snapshot_file, image_format, like=below.options, options=options
            )
        )


@command("blockdev-snapshot")
async def blockdev_snapshot(system: System, node: str, overlay: str) -> None:
    """Put a node that is there above another one."""
    data = BlockdevSnapshotData(node=node, overlay=overlay)
    await transaction.run(system, [BlockdevSnapshotAction(system, data)])


@command("blockdev-snapshot-sync")
async def blockdev_snapshot_sync(
    system: System,
    snapshot_file: str,
    device: str | None = None,
    node_name: str | None = None,
    snapshot_node_name: str | None = None,
    format: str | None = None,  # noqa: A002 - the member's name
    mode: Literal["existing", "absolute-paths"] | None = None,
) -> None:
    """Make an image file and put it above a node."""
    data = BlockdevSnapshotSyncData(
        device=device,
        node_name=node_name,
        snapshot_file=snapshot_file,
        snapshot_node_name=snapshot_node_name,
        format=format,
        mode=mode,
    )
    await transaction.run(system, [BlockdevSnapshotSyncAction(system, data)])
