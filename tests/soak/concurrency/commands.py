"""Commands at random, on a disk that is in use: bitmaps, snapshots, backups, reopening."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.oracle.random_draws import KIB, Json
from tests.soak.concurrency.bitmaps import Bitmap
from tests.soak.concurrency.clients import Qmp
from tests.soak.concurrency.history import FOREVER
from tests.soak.concurrency.images import Layout, tool
from tests.soak.concurrency.load import Load, Wrong

_BITMAPS: Final = ("b0", "b1", "b2")
_SNAPSHOTS: Final = ("s0", "s1")


@dataclass(slots=True)
class Snapshot:
    """An internal snapshot.

    Attributes:
        start: When it was asked for.
        end: When it was there.
        units: How much of it can still be checked.
        values: What it shows, once that is known.
    """

    start: int
    end: int
    units: int
    values: list[int] | None = None


@dataclass(slots=True)
class Backup:
    """A backup job.

    Attributes:
        job: Its id.
        target: Its target node.
        start: When it was asked for.
        end: When it had begun.
        units: What it certainly copies.
        bitmap: The bitmap that says so.
        mode: What becomes of that.
    """

    job: str
    target: str
    start: int = 0
    end: int = 0
    units: list[int] = field(default_factory=list)
    bitmap: Bitmap | None = None
    mode: str = ""


@dataclass(slots=True)
class Action:
    """A command that may also be part of a transaction.

    Attributes:
        kind: Its name.
        data: Its arguments.
        touched: The bitmaps that it concerns.
        backup: The job that it begins.
        done: Called when it was successful, with the times between which.
        refused: Called when not.
    """

    kind: str
    data: Json
    touched: list[Bitmap] = field(default_factory=list)
    backup: Backup | None = None
    done: Callable[[int, int], None] = lambda start, end: None
    refused: Callable[[], None] = lambda: None


class Commands:
    """Runs commands.

    Attributes:
        snapshots: The internal snapshots that are there.
        unsure: Those of which that is not known.
        ending: Whether the daemon is being ended.
    """

    def __init__(self, load: Load, layout: Layout, folder: Path, *, wobbly: bool) -> None:
        self.load = load
        self.draw = load.draw
        self.ending = False
        self.snapshots: dict[str, Snapshot] = {}
        self.unsure: set[str] = set()
        self._layout = layout
        self._folder = folder
        self._wobbly = wobbly
        self._backups: list[Backup] = []
        self._count = 0
        self._qmp: Qmp

    async def begin(self, qmp: Qmp) -> None:
        """Take a new daemon."""
        self._qmp = qmp
        self.ending = False
        self._backups.clear()

    def resized(self) -> None:
        """Take note of the disk's new size."""
        size = self.load.history.size
        for snapshot in self.snapshots.values():
            snapshot.units = min(snapshot.units, size)
        for bitmap in self.load.tracked():
            bitmap.resize(size)

    async def some(self, count: int) -> None:
        """Run so many commands."""
        draw = self.draw
        kinds: list[tuple[Callable[[], Coroutine[Any, Any, None]], int, str]] = [
            (self._single, 8, "commands"),
            (self._transaction, 3, "transactions"),
            (self._reopen, 2, "reopen"),
            (self._job, 4, "backups"),
            (self._query, 2, "queries"),
        ]
        for _ in range(count):
            for _ in range(draw.any(0, 1, 5, 20)):
                await asyncio.sleep(0.0005)
            function, _, feature = draw.random.choices(kinds, [weight for _, weight, _ in kinds])[
                0
            ]
            if self.ending:
                return
            if draw.has(feature):
                await function()

    # -- what can be part of transactions -----------------------------------------------------

    async def _single(self) -> None:
        if (action := await self._action()) is not None:
            await self._execute([action], transaction=False)

    async def _transaction(self) -> None:
        drawn = [await self._action() for _ in range(self.draw.any(1, 2, 2, 3))]
        if actions := [action for action in drawn if action is not None]:
            await self._execute(actions, transaction=True)

    async def _execute(self, actions: list[Action], *, transaction: bool) -> None:
        load, history = self.load, self.load.history
        touched = {id(one): one for action in actions for one in action.touched}
        for bitmap in touched.values():
            bitmap.begin(load.in_flight)
        for action in actions:
            if action.backup is not None and action.backup.bitmap is not None:
                others = [one.touched for one in actions if one is not action]
                if any(action.backup.bitmap in bitmaps for bitmaps in others):
                    action.backup.units = []  # what they make of it first is another matter
        start = history.tick()
        if transaction:
            listed = [{"type": action.kind, "data": action.data} for action in actions]
            reply = await self._qmp.ask("transaction", {"actions": listed})
        else:
            reply = await self._qmp.ask(actions[0].kind, actions[0].data)
        end = history.tick()
        if not reply and not (self.ending or self.load.hanging_up):
            raise Wrong("the monitor has hung up")
        for action in actions:
            if "return" in reply:
                action.done(start, end)
            elif reply:
                action.refused()  # else the daemon has died, and nobody knows
        for bitmap in touched.values():
            bitmap.end(end)

    async def _action(self) -> Action | None:
        draw = self.draw
        kinds = ["add", "add", "remove", "clear", "enable", "disable", "merge"]
        kind = draw.any(*kinds, "snapshot", "snapshot", "delete", "backup", "backup")
        if kind == "backup":
            return await self._backup() if draw.has("backups") else None
        if kind in {"snapshot", "delete"}:
            return self._snapshot(kind) if draw.has("snapshots") else None
        return self._bitmap(kind) if draw.has("bitmaps") else None

    def _bitmap(self, kind: str) -> Action:
        draw, bitmaps = self.draw, self.load.bitmaps
        name = draw.any(*_BITMAPS)
        there = bitmaps.get(name)
        data: Json = {"node": "q", "name": name}
        action = Action(f"block-dirty-bitmap-{kind}", data)
        if kind == "add":
            unit = draw.codec.unit
            granule = draw.any(512, 4 * KIB, 64 * KIB)
            persistent = draw.has("persistent", 0.6)
            enabled = draw.often(0.8)
            data |= {"granularity": granule, "persistent": persistent, "disabled": not enabled}
            new = Bitmap(name, granule // unit, persistent, enabled, since=FOREVER)
            if there is None:
                # Requests that are sent meanwhile may be in it.
                bitmaps[name] = new
                action.touched = [new]
                action.refused = lambda: self._forget(new)
            return action
        action.touched = [there] if there is not None else []
        if kind == "merge":
            del data["name"]
            other = draw.any(*_BITMAPS)
            data |= {"target": name, "bitmaps": [other]}
            source = bitmaps.get(other)
            if there is not None and source is not None:
                action.touched.append(source)
                target, given = there, source
                action.done = lambda start, end: _merge(target, given)
        elif there is not None:
            action.done = self._changer(kind, there)
        return action

    def _changer(self, kind: str, bitmap: Bitmap) -> Callable[[int, int], None]:
        def change(start: int, end: int) -> None:
            match kind:
                case "remove":
                    self._forget(bitmap)
                case "clear":
                    bitmap.clear()
                case _:
                    bitmap.enabled = kind == "enable"

        return change

    def _forget(self, bitmap: Bitmap) -> None:
        if self.load.bitmaps.get(bitmap.name) is bitmap:
            del self.load.bitmaps[bitmap.name]

    def _snapshot(self, kind: str) -> Action:
        name = self.draw.any(*_SNAPSHOTS)
        data = {"device": "q", "name": name}
        self.unsure.add(name)

        def refused() -> None:
            self.unsure.discard(name)

        def taken(start: int, end: int) -> None:
            self.snapshots[name] = Snapshot(start, end, self.load.history.size)
            self.unsure.discard(name)

        def deleted(start: int, end: int) -> None:
            self.snapshots.pop(name, None)
            self.unsure.discard(name)

        if kind == "snapshot":
            command = "blockdev-snapshot-internal-sync"
            return Action(command, data, done=taken, refused=refused)
        command = "blockdev-snapshot-delete-internal-sync"
        return Action(command, data, done=deleted, refused=refused)

    # -- other commands -----------------------------------------------------------------------

    async def _reopen(self) -> None:
        options: Json = {"driver": self._layout.kind, "node-name": "q", "discard": "unmap"}
        options["file"] = "f"
        if "data_file" in self._layout.options:
            options["data-file"] = "d"
        if self._layout.backing:
            options["backing"] = "b"
        options |= self.draw.changeable(self._layout)
        await self._qmp.run("blockdev-reopen", options=[options])

    async def _query(self) -> None:
        name = self.draw.any("query-named-block-nodes", "query-block-jobs", "query-block-exports")
        await self._qmp.run(name)

    # -- backups ------------------------------------------------------------------------------

    async def target(self, name: str, kind: str) -> None:
        """Make an image for a copy of the disk, and its node."""
        draw = self.draw
        size = self.load.history.size * draw.codec.unit
        more = ["-o", f"cluster_size={draw.any(4 * KIB, 64 * KIB)}"] if kind == "qcow2" else []
        path = f"{name}.{kind}"
        tool(self._folder, "qemu-img", "create", "-q", "-f", kind, *more, path, str(size))
        wobbly = self._wobbly and draw.often(0.5)
        options = {"driver": kind, "node-name": name, "file": draw.file(path, wobbly=wobbly)}
        await self._qmp.must("blockdev-add", **options)

    async def _backup(self) -> Action | None:
        draw = self.draw
        self._count += 1
        backup = Backup(f"j{self._count}", f"t{self._count}")
        kind = draw.any("raw", "qcow2")
        try:
            await self.target(backup.target, kind)
        except AssertionError:
            if self.ending or (self.load.hanging_up and self._qmp.ended):
                return None
            raise
        backup.target = f"{backup.target}.{kind}"
        data: Json = {
            "job-id": backup.job,
            "device": "q",
            "target": backup.target.split(".", 1)[0],
            "sync": "full",
            **draw.some(0.4, speed=draw.any(64 * KIB, 1024 * KIB, 1 << 30)),
            **draw.some(0.3, compress=kind == "qcow2"),
        }
        size = self.load.history.size
        backup.units = list(range(size))
        touched: list[Bitmap] = []
        # A job may have ended, and nobody has looked yet what has become of its bitmap.
        bitmaps = [one for one in self.load.tracked() if not one.unsure]
        if bitmaps and draw.has("bitmap-backups", 0.5):
            bitmap = draw.any(*bitmaps)
            backup.bitmap, backup.mode = bitmap, draw.any("on-success", "never", "always")
            backup.units = sorted(bitmap.must)
            data |= {"sync": "bitmap", "bitmap": bitmap.name, "bitmap-mode": backup.mode}
            bitmap.begin(self.load.in_flight)  # up to the end of the job
            touched.append(bitmap)

        def begun(start: int, end: int) -> None:
            backup.start, backup.end = start, end
            if backup.bitmap is not None:
                backup.bitmap.after, backup.bitmap.touched = set(), False
            self._backups.append(backup)

        def refused() -> None:
            if backup.bitmap is not None:
                backup.bitmap.end(self.load.history.now)

        return Action("blockdev-backup", data, touched, backup, done=begun, refused=refused)

    async def _job(self) -> None:
        """Do something to a job that may still be running."""
        if not self._backups:
            return
        draw, job = self.draw, self.draw.any(*self._backups).job
        match draw.any("pause", "resume", "cancel", "speed", "speed"):
            case "speed":
                speed = draw.any(0, 64 * KIB, 1024 * KIB)
                await self._qmp.run("block-job-set-speed", device=job, speed=speed)
            case verb:
                await self._qmp.run(f"block-job-{verb}", device=job)

    async def finish(self) -> None:
        """Wait for all jobs, and check what they have made."""
        for backup in self._backups:
            await self._qmp.run("block-job-set-speed", device=backup.job, speed=0)
            await self._qmp.run("block-job-resume", device=backup.job)
        for backup in self._backups:
            await self._finish(backup)
        self._backups.clear()

    async def _finish(self, backup: Backup) -> None:
        qmp = self._qmp
        await qmp.wait_for("JOB_STATUS_CHANGE", id=backup.job, status="null")
        ends = [
            event
            for event in qmp.events
            if event["event"].startswith("BLOCK_JOB_C") and event["data"]["device"] == backup.job
        ]
        done = ends[0]["event"] == "BLOCK_JOB_COMPLETED"
        if "error" in ends[0]["data"]:
            raise Wrong(f"backup: {ends[0]}")
        if (bitmap := backup.bitmap) is not None:
            after, bitmap.after = bitmap.after or set(), None
            if backup.mode == "never" or (not done and backup.mode == "on-success"):
                bitmap.must |= after
            else:
                bitmap.must = after
                if done and not bitmap.touched:
                    bitmap.may = set(bitmap.meanwhile)
            bitmap.end(self.load.history.tick())
        await qmp.must("blockdev-del", node_name=backup.target.split(".", 1)[0])
        if done:
            self._check(backup)
        (self._folder / backup.target).unlink()

    def _check(self, backup: Backup) -> None:
        kind = backup.target.rsplit(".", 1)[1]
        if kind == "qcow2":
            tool(self._folder, "qemu-img", "check", backup.target)
        tool(self._folder, "qemu-img", "convert", "-f", kind, "-O", "raw", backup.target, "out")
        values = self.draw.codec.decode((self._folder / "out").read_bytes())
        shown = {unit: values[unit] for unit in backup.units}
        if wrong := self.load.history.torn(shown, backup.start, backup.end):
            raise Wrong(f"backup {backup.job} {backup.bitmap and backup.mode}: {wrong}")


def _merge(target: Bitmap, source: Bitmap) -> None:
    target.must |= source.must
    target.may |= source.may
