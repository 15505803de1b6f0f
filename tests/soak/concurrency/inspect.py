"""What a daemon has left behind, looked at with QEMU's tools."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.soak.concurrency.commands import Commands
from tests.soak.concurrency.history import FOREVER
from tests.soak.concurrency.images import Layout, tool
from tests.soak.concurrency.load import Load, Wrong

_PATIENCE_S: Final = 20.0
_LEAKED: Final = re.compile(r"Leaked cluster (\d+) refcount=\d+ reference=1")
_FLAG: Final = re.compile(r"ERROR OFLAG_COPIED \w+ cluster: .*l[12]_entry=(\w+) refcount=(\d+)")
_COPIED: Final = 1 << 63
_OFFSET_MASK: Final = (1 << 56) - 512


class Inspector:
    """Checks the image of a daemon that has ended.

    Attributes:
        died_at: When the daemon was killed.
    """

    def __init__(self, load: Load, commands: Commands, layout: Layout, folder: Path) -> None:
        self.died_at = 0
        self._load = load
        self._commands = commands
        self._layout = layout
        self._folder = folder
        self._leaks = False
        self._killed = False
        self._content: list[int] = []

    async def inspect(self, *, killed: bool) -> None:
        """Check the image.

        Raises:
            Wrong: It is not what it should be.
        """
        self._killed = killed
        self._leaks |= killed
        self._load.settle()
        name = f"q.{self._layout.kind}"
        if self._layout.kind == "qcow2":
            shutil.copy(self._folder / name, self._folder / "k.qcow2")
            name = "k.qcow2"
            self._check_references(name)
        self._content = self._read(name)
        history = self._load.history
        if len(self._content) != history.size:
            raise Wrong(f"the disk has {len(self._content)} units, not {history.size}")
        now = history.tick()
        stable_at = self.died_at if killed else FOREVER
        if wrong := history.wrong(0, self._content, now, now, stable_at=stable_at):
            raise Wrong(f"at the end{' (killed)' * killed}: {wrong}")
        if self._layout.kind == "qcow2":
            self._check_snapshots(name)
            if not killed:
                self._check_bitmaps()

    def go_on(self) -> None:
        """Take what the disk shows as what it shows from now on."""
        self._load.history.begin(self._content)
        self._load.in_flight.clear()
        bitmaps = self._load.bitmaps
        for bitmap in list(bitmaps.values()):
            if not bitmap.persistent or self._killed:
                del bitmaps[bitmap.name]
                continue
            if bitmap.unsure:  # a job may have taken what it copied
                bitmap.must = set()
            bitmap.unsure, bitmap.after, bitmap.since = 0, None, self._load.history.now
        self._commands.unsure.clear()

    def _check_references(self, name: str) -> None:
        header = (self._folder / name).read_bytes()[:80]
        if header[7] >= 3 and header[79] & 1:
            if not self._killed:
                raise Wrong("the image is dirty")
            tool(self._folder, "qemu-img", "check", "-q", "-r", "all", name, fails=True)
        text = tool(
            self._folder, "qemu-img", "check", "--output=json", "-f", "qcow2", name, fails=True
        )
        try:
            found = json.loads(text[text.index("{") : text.rindex("}") + 1])
        except ValueError:
            raise Wrong(f"check: {text}") from None
        outdated = self._outdated_flags(text) if self._leaks and self._layout.is_old else 0
        if found.get("corruptions", 0) != outdated or found.get("check-errors"):
            raise Wrong(f"corrupt{' (killed)' * self._killed}: {text}")
        if found.get("leaks") and not self._leaks:
            raise Wrong(f"leaks: {text}")

    def _outdated_flags(self, text: str) -> int:
        """Count COPIED flags that do not tell what the count is, but endanger nothing.

        A daemon that dies while it takes or deletes a snapshot of a version 2 image, which can't
        be marked dirty, leaves them: clear where there is one reference, or set where one
        reference is there and more are counted.
        """
        leaked = {int(number) for number in _LEAKED.findall(text)}
        count = 0
        for word, refcount in _FLAG.findall(text):
            entry = int(word, 16)
            number = (entry & _OFFSET_MASK) // self._layout.cluster
            count += number in leaked if entry & _COPIED else refcount == "1"
        return count

    def _read(self, name: str, *options: str) -> list[int]:
        kind = name.rsplit(".", 1)[1]
        tool(self._folder, "qemu-img", "convert", "-f", kind, *options, "-O", "raw", name, "out")
        return self._load.draw.codec.decode((self._folder / "out").read_bytes())

    def _check_snapshots(self, name: str) -> None:
        commands, history = self._commands, self._load.history
        text = tool(self._folder, "qemu-img", "info", "--output=json", name)
        listed = json.loads(text[: text.rindex("}") + 1])  # there may be a warning behind
        found = {one["name"] for one in listed.get("snapshots", [])}
        expected = set(commands.snapshots)
        if (found ^ expected) - commands.unsure:
            raise Wrong(f"snapshots: {found} are there, {expected} should be")
        for label in sorted(found):
            values = self._read(name, "-l", f"snapshot.name={label}")
            snapshot = commands.snapshots.get(label)
            if snapshot is None or label in commands.unsure:
                commands.snapshots.pop(label, None)
                continue
            units = min(snapshot.units, len(values))
            if snapshot.values is not None:
                wrong = _difference(values, snapshot.values)
            elif self._killed:
                start, end = snapshot.start, snapshot.end
                wrong = history.wrong(0, values[:units], start, end, stable_at=start)
            else:
                shown = dict(enumerate(values[:units]))
                wrong = history.torn(shown, snapshot.start, snapshot.end)
            if wrong:
                raise Wrong(f"snapshot {label}: {wrong}")
            snapshot.values = values
        for label in list(commands.snapshots):
            if label not in found:
                del commands.snapshots[label]

    def _check_bitmaps(self) -> None:
        """Ask QEMU's server for the bitmaps that the image has."""
        bitmaps = [one for one in self._load.tracked() if one.persistent]
        sure = [one for one in bitmaps if not one.unsure]
        if not sure:
            return
        path = self._folder / "bitmaps.sock"
        names = ",".join(f"bitmaps.{at}={one.name}" for at, one in enumerate(sure))
        export = f"type=nbd,id=e,node-name=q,name=e,{names}"
        file = "driver=qcow2,node-name=q,read-only=on,file.driver=file,file.filename=q.qcow2"
        command = ["qemu-storage-daemon", "--blockdev", file]
        command += ["--nbd-server", f"addr.type=unix,addr.path={path}", "--export", export]
        with subprocess.Popen(
            command, cwd=self._folder, stderr=subprocess.PIPE, text=True
        ) as server:
            try:
                until = time.monotonic() + _PATIENCE_S
                while not path.exists() or not self._answers(path):
                    if server.poll() is not None or time.monotonic() > until:
                        server.kill()
                        raise Wrong(f"bitmaps: {server.communicate()[1]}")
                    time.sleep(0.005)
                for bitmap in sure:
                    self._check_bitmap(bitmap.name, path)
            finally:
                server.kill()
                path.unlink(missing_ok=True)

    def _answers(self, path: Path) -> bool:
        uri = f"nbd+unix:///e?socket={path}"
        return (
            subprocess.run(["nbdinfo", "--size", uri], capture_output=True, check=False).returncode
            == 0
        )

    def _check_bitmap(self, name: str, path: Path) -> None:
        uri, unit = f"nbd+unix:///e?socket={path}", self._load.draw.codec.unit
        text = tool(self._folder, "nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", uri)
        dirty: set[int] = set()
        for extent in json.loads(text):
            if extent["type"] & 1:
                first, stop = extent["offset"] // unit, extent["offset"] + extent["length"]
                dirty.update(range(first, -(-stop // unit)))
        if wrong := self._load.bitmaps[name].wrong(dirty, self._load.history.size):
            raise Wrong(wrong)


def _difference(values: list[int], before: list[int]) -> str:
    pairs = zip(values, before, strict=False)  # it is cut with the disk
    units = [(unit, old, new) for unit, (new, old) in enumerate(pairs) if new != old]
    return f"it has changed (unit, before, after): {units[:20]}" if units else ""
