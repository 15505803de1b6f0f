"""Chains of a full and incremental backups, restored with QEMU's own tools.

The daemon is a process, the guest is qemu-io over NBD, and a model in memory says what the disk
holds. The bitmap is persistent, so a chain goes on after the daemon was ended in good order;
after a crash a new one must begin.
"""

import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tools.disk import qemu_img, run
from tests.tools.programs import QSD, Qmp, Running, needs, running

SIZE = 6 << 20
CLUSTER = 64 << 10
INCREMENTS = 5

pytestmark = [needs("qemu-img", "qemu-io"), pytest.mark.timeout(300)]


class Chain:
    """A disk with a persistent bitmap, what it holds, and the backups made of it so far."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.disk = folder / "disk.qcow2"
        self.model = bytearray(SIZE)
        self.backups: list[tuple[Path, bytes]] = []
        self.qmp: Qmp
        self.daemon: Running
        qemu_img("create", "-q", "-f", "qcow2", self.disk, SIZE)

    @contextmanager
    def serving(self, end: int | None) -> Iterator[None]:
        """Run the daemon for a block and end it by a signal, or by ``quit`` for None."""
        for name in ("qmp", "nbd", "pid"):
            (self.folder / name).unlink(missing_ok=True)
        monitor = f"socket,id=m,path={self.folder / 'qmp'},server=on,wait=off"
        disk = f"qcow2,node-name=disk,discard=unmap,file.driver=file,file.filename={self.disk}"
        command = [QSD, "--blockdev", disk, "--chardev", monitor, "--monitor", "chardev=m"]
        command += ["--nbd-server", f"addr.type=unix,addr.path={self.folder / 'nbd'}"]
        command += ["--export", "nbd,id=e,node-name=disk,name=guest,writable=on"]
        pidfile = self.folder / "pid"
        with running(*command, "--pidfile", pidfile, folder=self.folder) as self.daemon:
            self.daemon.wait_for(pidfile)
            with Qmp(self.folder / "qmp") as self.qmp:
                yield
                if end is None:
                    self.qmp.execute("quit")
            status, _, errors = self.daemon.end(end) if end else self._wait()
            assert not errors, errors
            assert status == (-signal.SIGKILL if end == signal.SIGKILL else 0)

    def _wait(self) -> tuple[int, str, str]:
        self.daemon.process.wait(30)
        return self.daemon.end()

    def write(self, count: int) -> None:
        """Let the guest write at random."""
        words: list[str] = []
        for _ in range(count):
            length = min(
                SIZE, self.random.choice((512, 4096, 5 * 512, CLUSTER, 3 * CLUSTER + 512))
            )
            offset = self.random.randrange(0, SIZE - length + 1, 512)
            pattern = self.random.randrange(4) and self.random.randrange(1, 256)
            how = f"-P {pattern}" if pattern else self.random.choice(("-z", "-z -u", "-P 0"))
            words += ["-c", f"write -q {how} {offset} {length}"]
            self.model[offset : offset + length] = bytes([pattern]) * length
        run("qemu-io", "-f", "raw", *words, f"nbd+unix:///guest?socket={self.folder / 'nbd'}")

    # -- backups ------------------------------------------------------------------------------

    def full(self) -> None:
        """Begin a chain: a full backup, and the bitmap from the same moment."""
        self.backups = []
        target = self._target("full.qcow2", None, named=False)
        bitmap = {"node": "disk", "name": "b", "persistent": True}
        backup = {"job-id": "j", "device": "disk", "target": "target", "sync": "full"}
        actions = [
            {"type": "block-dirty-bitmap-add", "data": bitmap},
            {"type": "blockdev-backup", "data": backup},
        ]
        self.qmp.execute("transaction", actions=actions)
        self._finish(target)

    def increment(self) -> None:
        """Add what has changed since the last backup."""
        number, (base, _) = len(self.backups), self.backups[-1]
        named = number % 2 == 0
        target = self._target(f"inc{number}.qcow2", base, named=named)
        how: dict[str, Any] = {"sync": "incremental"}
        if self.random.randrange(2):
            how = {"sync": "bitmap", "bitmap-mode": "on-success"}
        command = {"job-id": "j", "device": "disk", "target": "target", "bitmap": "b", **how}
        self.qmp.execute("blockdev-backup", **command)
        self._finish(target)
        if not named:
            qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base, target)

    def _target(self, name: str, base: Path | None, *, named: bool) -> Path:
        """Make and open a target; ``named``: qemu-img makes it, and it knows its base."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        if named:
            qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path)
        else:
            self._create({"driver": "file", "filename": str(path), "size": 0})
            file = {"driver": "file", "filename": str(path)}
            self.qmp.execute("blockdev-add", **{"node-name": "made", **file})
            self._create({"driver": "qcow2", "file": "made", "size": SIZE})
            self.qmp.execute("blockdev-del", **{"node-name": "made"})
        file = {"driver": "file", "filename": str(path)}
        target = {"driver": "qcow2", "node-name": "target", "file": file}
        self.qmp.execute("blockdev-add", **target)
        return path

    def _create(self, options: dict[str, Any]) -> None:
        self.qmp.events.clear()
        self.qmp.execute("blockdev-create", **{"job-id": "c", "options": options})
        while self.qmp.wait_for("JOB_STATUS_CHANGE") and not self._concluded():
            pass
        self.qmp.execute("job-dismiss", id="c")

    def _concluded(self) -> bool:
        (job,) = self.qmp.execute("query-jobs")
        assert "error" not in job, job
        return bool(job["status"] == "concluded")

    def _finish(self, target: Path) -> None:
        assert "error" not in self.qmp.wait_for("BLOCK_JOB_COMPLETED")
        self.qmp.execute("blockdev-del", **{"node-name": "target"})
        self.backups.append((target, bytes(self.model)))

    # -- restoring ----------------------------------------------------------------------------

    def check(self) -> None:
        """Every backup must read as the disk did, through the chain and when committed."""
        for path, expected in self.backups:
            run("qemu-img", "check", "-q", "-f", "qcow2", path)
            assert self._content(path) == expected, f"{path.name} through its chain"
        base = self.folder / "restored.qcow2"
        shutil.copy(self.backups[0][0], base)
        for path, expected in self.backups[1:]:
            top = self.folder / "top.qcow2"
            shutil.copy(path, top)
            qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base, top)
            qemu_img("commit", "-q", "-f", "qcow2", top)
            assert self._content(base) == expected, f"{path.name} committed"

    def _content(self, image: Path) -> bytes:
        flat = self.folder / "flat.raw"
        qemu_img("convert", "-f", "qcow2", "-O", "raw", image, flat)
        return flat.read_bytes()


def _chain_without_restart(folder: Path, seed: int, writes: int) -> None:
    chain = Chain(folder, seed)
    with chain.serving(None):
        chain.write(writes)
        chain.full()
        for _ in range(INCREMENTS):
            chain.write(chain.random.randrange(writes))
            chain.increment()
    chain.check()


def _chain_over_restarts(folder: Path, seed: int, writes: int) -> None:
    chain = Chain(folder, seed)
    with chain.serving(None):
        chain.write(writes)
        chain.full()
        chain.write(writes)
    for number in range(INCREMENTS):
        with chain.serving(signal.SIGTERM if number % 2 else None):
            chain.write(chain.random.randrange(writes))
            chain.increment()
            chain.write(chain.random.randrange(writes))
    chain.check()


def test_increments_restore_the_disk_as_it_was_each_time(tmp_path):
    _chain_without_restart(tmp_path, seed=1, writes=12)


def test_a_chain_goes_on_after_the_daemon_was_ended_in_order(tmp_path):
    _chain_over_restarts(tmp_path, seed=2, writes=12)


def test_after_a_crash_the_bitmap_can_only_be_removed_and_a_new_chain_begins(tmp_path):
    chain = Chain(tmp_path, seed=3)
    with chain.serving(None):
        chain.write(10)
        chain.full()
    with chain.serving(signal.SIGKILL):
        chain.write(10)
        chain.increment()
        chain.write(10)
    run("qemu-img", "check", "-q", "-r", "leaks", "-f", "qcow2", chain.disk)
    chain.model[:] = chain._content(chain.disk)  # nothing was flushed
    with chain.serving(None):
        qmp = chain.qmp
        (disk,) = [
            node
            for node in qmp.execute("query-named-block-nodes", flat=True)
            if node["node-name"] == "disk"
        ]
        (bitmap,) = disk["dirty-bitmaps"]
        assert bitmap["inconsistent"]
        name = {"node": "disk", "name": "b"}
        broken = "Bitmap 'b' is inconsistent and cannot be used"
        for verb in ("clear", "enable", "disable"):
            assert qmp.refuse(f"block-dirty-bitmap-{verb}", **name).startswith(broken)
        given = {"device": "disk", "target": "disk", "sync": "incremental", "bitmap": "b"}
        assert qmp.refuse("blockdev-backup", **{"job-id": "j", **given}).startswith(broken)
        qmp.execute("block-dirty-bitmap-remove", **name)
        chain.full()
        for _ in range(2):
            chain.write(10)
            chain.increment()
    chain.check()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 112))
def test_many_chains_restore_the_disk(tmp_path, seed):
    scenario = _chain_over_restarts if seed % 2 else _chain_without_restart
    scenario(tmp_path, seed, writes=60)
