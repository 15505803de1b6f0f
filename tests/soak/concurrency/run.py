"""Everything at once in one daemon: many requests of many clients, commands, jobs, crashes.

    python -m tests.soak.concurrency.run FIRST LAST [WITHOUT,...]

runs these seeds, without some of the features, and says what was wrong. With KEEP=1 in the
environment the files of all runs stay, with KEEP=errors also what the monitor refused is shown.
Requests overlap each other; what the disk may show then follows from when each was sent and
answered (``history``). A seed decides what is drawn, not how it overlaps: run one several times.

    python -m tests.soak.concurrency.run --shrink SEED

leaves out what does not matter, as far as a failure still occurs in a few attempts.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, Final

from qmpfleece.nbdclient.uri import NbdUri
from qmpfleece.nbdproto.codec import NbdProtocolError, NbdRefused
from tests.soak.concurrency.clients import PATIENCE_S, Qmp, Requests
from tests.soak.concurrency.commands import Commands
from tests.soak.concurrency.history import History
from tests.soak.concurrency.images import Images
from tests.soak.concurrency.inspect import Inspector
from tests.soak.concurrency.load import Load, Wrong

FEATURES: Final = (
    "wobbly", "qcow2", "old", "lazy", "extended", "data-file", "backing", "compressed",
    "throttle", "cbw", "resize", "hang-up", "kill", "busy-quit", "again",
    "bitmaps", "persistent", "snapshots", "backups", "bitmap-backups", "reopen", "transactions",
    "queries", "clients", "commands",
)  # fmt: skip
_FAULT: Final = re.compile(r"Traceback|\w(Error|Exception|Warning)\b|unexpectedly|never")


class Run:
    """One seed.

    Args:
        seed: Decides what is drawn; not what happens, as everything overlaps.
        folder: Where the files are.
        features: What may occur.
    """

    def __init__(self, seed: int, folder: Path, features: frozenset[str]) -> None:
        self.draw = Images(seed, folder, features)
        self.folder = folder
        self.wobbly = self.draw.has("wobbly", 0.6)
        self.layout = self.draw.layout()
        content = self.draw.make(self.layout)
        self.history = History(len(content))
        self.history.begin(content)
        self.load = Load(self.draw, self.history, self.layout.cluster)
        self.commands = Commands(self.load, self.layout, self.folder, wobbly=self.wobbly)
        self.inspector = Inspector(self.load, self.commands, self.layout, self.folder)
        self.qmp: Qmp
        self.process: asyncio.subprocess.Process
        self.throttled = False
        self._nbd = NbdUri("e", path=str(folder / "nbd.sock"))

    async def run(self) -> None:
        """Do all of it.

        Raises:
            Wrong: Something is.
        """
        lives = 2 if self.draw.has("again", 0.4) else 1
        for life in range(lives):
            await self._start()
            try:
                await self._live()
            finally:
                if self.process.returncode is None:
                    self._kill()
                    await self.process.wait()
                await self.qmp.close()
                self._complain()
            if life + 1 < lives:
                self.inspector.go_on()

    # -- the daemon -------------------------------------------------------------------------

    async def _start(self) -> None:
        for name in ("qmp.sock", "nbd.sock"):
            (self.folder / name).unlink(missing_ok=True)
        arguments = [
            *("--chardev", f"socket,id=m,path={self.folder}/qmp.sock,server=on,wait=off"),
            *("--monitor", "chardev=m"),
            *("--nbd-server", f"addr.type=unix,addr.path={self.folder}/nbd.sock"),
        ]
        with (self.folder / "stderr").open("ab") as errors:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.soak.concurrency.wobbly", *arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=errors, stderr=errors,
            )  # fmt: skip
        for _ in range(int(PATIENCE_S * 100)):
            with contextlib.suppress(OSError):
                self.qmp = await Qmp.connect(str(self.folder / "qmp.sock"))
                return
            if self.process.returncode is not None:
                break
            await asyncio.sleep(0.01)
        raise Wrong("the daemon does not start")

    def _complain(self) -> None:
        text = (self.folder / "stderr").read_text()
        if _FAULT.search(text):
            raise Wrong(f"stderr: {text}")

    async def _live(self) -> None:
        draw, qmp = self.draw, self.qmp
        ends = "kill" if draw.has("kill", 0.45) else "quit"
        dies = draw.any(0, 100, 1000, 10000) if ends == "kill" and self.wobbly else 0
        dies = draw.random.randrange(dies) if dies else 0
        options = draw.options(self.layout, wobbly=self.wobbly, dies=dies)
        try:
            await qmp.must("blockdev-add", **options)
            await self._use(ends, alone=bool(dies))
        except* AssertionError:
            # Commands that must be successful are not, where the daemon has died.
            if not dies or not qmp.ended:
                raise
            await self._end(ends)
        await self.inspector.inspect(killed=ends == "kill")

    async def _use(self, ends: str, *, alone: bool) -> None:
        """Use the disk, and end the daemon, as a rule; ``alone``: it may end by itself."""
        draw, qmp = self.draw, self.qmp
        self.throttled = draw.has("throttle", 0.25)
        if self.throttled:
            limits = draw.any({}, {"iops-total": 3000}, {"bps-write": 4 << 20})
            await qmp.must("object-add", qom_type="throttle-group", id="g", limits=limits)
            throttle = {"driver": "throttle", "node-name": "t", "throttle-group": "g", "file": "q"}
            await qmp.must("blockdev-add", **throttle)
        await self.commands.begin(qmp)
        self.load.hanging_up = alone
        busy = ends == "kill" or draw.has("busy-quit", 0.4)
        phases = 1 if alone else draw.any(1, 1, 2, 3)
        for phase in range(phases):
            last = phase == phases - 1
            await self._phase(ends if last and busy else "", alone=alone)
            if not last or not busy:
                await self._look()
        if not busy:
            await self._end(ends)

    async def _end(self, how: str) -> None:
        if how == "kill":
            self.inspector.died_at = self.history.tick()
            self._kill()
        else:
            await self.qmp.ask("quit", {})
        try:
            async with asyncio.timeout(PATIENCE_S):
                status = await self.process.wait()
        except TimeoutError as error:
            raise Wrong(f"{how} hangs") from error
        if status != (-signal.SIGKILL if how == "kill" else 0):
            raise Wrong(f"the daemon ends with {status}")

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)  # asyncio would take its status away

    # -- phases -----------------------------------------------------------------------------

    async def _phase(self, end: str, *, alone: bool) -> None:
        """Let clients and commands work; ``end`` says how the daemon is ended under them.

        ``alone``: that it dies by itself is waited for, as long as there is something to do.
        """
        draw, qmp, load = self.draw, self.qmp, self.load
        top = "t" if self.throttled else "q"
        filtered = draw.has("cbw", 0.3) and await self._filter(top)
        await qmp.must(
            "block-export-add", type="nbd", id="e", node_name="c" if filtered else top, name="e",
            writable=True,
        )  # fmt: skip
        cut = end or ("hang-up" if draw.has("hang-up", 0.3) else "")
        load.hanging_up = alone
        tasks: list[asyncio.Task[Any]] = []
        depth = draw.any(2, 4, 8)
        async with asyncio.TaskGroup() as group:
            if draw.has("clients"):
                for _ in range(draw.any(1, 2, 3)):
                    coroutine = load.client(self._nbd, draw.any(30, 80, 150), depth)
                    tasks.append(group.create_task(coroutine))
            if draw.has("commands"):
                tasks.append(group.create_task(self.commands.some(draw.any(2, 6, 12))))
            if filtered:
                tasks.append(group.create_task(self._fleece()))
            if cut:
                group.create_task(self._cut(cut, tasks, alone=alone))
        if end:
            return
        if not cut:
            await qmp.must("block-export-del", id="e")
            await qmp.wait_for("BLOCK_EXPORT_DELETED", id="e")
        load.settle()
        if filtered:
            await qmp.must("block-export-del", id="s", mode="hard")
            await qmp.wait_for("BLOCK_EXPORT_DELETED", id="s")
            for node in ("a", "c", "ct"):
                await qmp.must("blockdev-del", node_name=node)
        await self.commands.finish()
        if draw.has("resize", 0.3):
            await self._resize()

    async def _cut(self, how: str, tasks: list[asyncio.Task[Any]], *, alone: bool) -> None:
        """End the daemon, or the export, in the middle of everything."""
        target = self.history.now + self.draw.random.randrange(600)
        pending = set(tasks)
        while pending and not self.qmp.ended and (alone or self.history.now < target):
            _, pending = await asyncio.wait(pending, timeout=0.002)
        self.load.hanging_up = self.commands.ending = True
        if how == "hang-up":
            self.commands.ending = False
            await self.qmp.must("block-export-del", id="e", mode="hard")
            await self.qmp.wait_for("BLOCK_EXPORT_DELETED", id="e")
        else:
            await self._end(how)

    async def _filter(self, top: str) -> bool:
        """Put copy-before-write above the disk, and export its snapshot."""
        qmp, draw = self.qmp, self.draw
        await self.commands.target("ct", draw.any("raw", "qcow2", "qcow2"))
        at = self.history.tick()
        await qmp.must("blockdev-add", driver="copy-before-write", node_name="c", file=top,
                       target="ct")  # fmt: skip
        self._snapshot_at = at, self.history.tick()
        await qmp.must("blockdev-add", driver="snapshot-access", node_name="a", file="c")
        await qmp.must("block-export-add", type="nbd", id="s", node_name="a", name="s")
        return True

    async def _fleece(self) -> None:
        """Read the snapshot, while the disk is written to."""
        draw, codec, size = self.draw, self.draw.codec, self.history.size
        try:
            client = await Requests.connect(NbdUri("s", path=self._nbd.path))
            for _ in range(draw.any(5, 20)):
                first = draw.random.randrange(size)
                stop = min(size, first + draw.any(1, 8, 64, size))
                data = await client.read(first * codec.unit, (stop - first) * codec.unit)
                wrong = self.history.wrong(first, codec.decode(data), *self._snapshot_at)
                if wrong:
                    raise Wrong(f"snapshot-access: {wrong}")
            await client.close()
        except (OSError, NbdRefused, NbdProtocolError) as error:
            if not self.load.hanging_up:
                raise Wrong(f"snapshot-access: {error}") from error

    async def _resize(self) -> None:
        unit = self.draw.codec.unit
        size = self.draw.random.randrange(512, self.history.size * unit * 3 // 2, 512)
        node = "t" if self.throttled else "q"
        if await self.qmp.run("block_resize", node_name=node, size=size):
            self.history.resize(size // unit)
            self.commands.resized()

    async def _look(self) -> None:
        """Read all of the disk, while nobody writes."""
        await self.qmp.must("block-export-add", type="nbd", id="l", node_name="q", name="l")
        client = await Requests.connect(NbdUri("l", path=self._nbd.path))
        await self.load.read(client, 0, self.history.size)
        await client.close()
        await self.qmp.must("block-export-del", id="l", mode="hard")
        await self.qmp.wait_for("BLOCK_EXPORT_DELETED", id="l")


def failure(seed: int, features: frozenset[str] = frozenset(FEATURES)) -> str:
    """Run one seed; return what was wrong, "" for nothing."""
    folder = Path(tempfile.mkdtemp(prefix=f"concurrency-{seed}-"))
    keep = os.environ.get("KEEP")
    try:
        run = Run(seed, folder, features)
        try:
            asyncio.run(run.run())
        except BaseExceptionGroup as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            return _described(run, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            return _described(run, error)
        if keep == "errors":
            sys.stdout.write("".join(f"  {error}\n" for error in run.qmp.errors))
        return ""
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _described(run: Run, error: BaseException) -> str:
    text = str(error) if isinstance(error, Wrong) else repr(error)
    if not isinstance(error, Wrong | AssertionError):
        text += "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):
        errors = (run.folder / "stderr").read_text()
        text += f"\nstderr: {errors}" if errors and "stderr" not in text else ""
    return f"{text}\n{run.layout} {'wobbly ' if run.wobbly else ''}{run.folder}"


def shrink(seed: int, attempts: int = 6) -> str:
    """Leave features out as long as a seed still fails sometimes; return what is left."""
    left = set(FEATURES)

    def fails(features: set[str]) -> str:
        for _ in range(attempts):
            if found := failure(seed, frozenset(features)):
                return found
        return ""

    found = fails(left)
    for feature in FEATURES if found else ():
        if less := fails(left - {feature}):
            left.discard(feature)
            found = less
    return f"{sorted(left)}\n{found}" if found else "no failure"


def main() -> int:
    """Run the command line."""
    if sys.argv[1] == "--shrink":
        sys.stdout.write(f"{shrink(int(sys.argv[2]))}\n")
        return 0
    first, last = int(sys.argv[1]), int(sys.argv[2])
    without = sys.argv[3].split(",") if len(sys.argv) > 3 else []
    failed = 0
    for seed in range(first, last):
        found = failure(seed, frozenset(FEATURES) - frozenset(without))
        failed += bool(found)
        if found:
            sys.stdout.write(f"=== {seed}\n{found}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{last - first} seeds, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
