"""The images of a run: made with QEMU's tools, of a content that is known."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.oracle.random_draws import KIB, Dice, Json
from tests.soak.concurrency.history import TORN

_WRITE = 48


class Codec:
    """A disk as numbers: units of equal size, each filled with one.

    Args:
        unit: Bytes of a unit, a multiple of 4.
    """

    def __init__(self, unit: int) -> None:
        self.unit = unit

    def encode(self, value: int, units: int) -> bytes:
        """Return units that all show one value."""
        return value.to_bytes(4, "little") * (self.unit // 4 * units)

    def join(self, values: list[int]) -> bytes:
        """Return a disk."""
        return b"".join(self.encode(value, 1) for value in values)

    def decode(self, data: bytes | bytearray) -> list[int]:
        """Return what units show, TORN for what nobody wrote in one piece."""
        values = []
        for at in range(0, len(data), self.unit):
            part = bytes(data[at : at + self.unit])
            whole = part == part[:4] * (self.unit // 4)
            values.append(int.from_bytes(part[:4], "little") if whole else TORN)
        return values


def tool(folder: Path, *words: str, fails: bool = False) -> str:
    """Run a program of QEMU's; return what it said.

    Args:
        folder: Where.
        words: The program and its arguments.
        fails: Whether it may fail.
    """
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert fails or not done.returncode, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@dataclass(slots=True)
class Layout:
    """How an image was made.

    Attributes:
        kind: Its format.
        cluster: Bytes of a cluster.
        options: The options of qemu-img create.
        backing: Whether there is a backing file.
    """

    kind: str
    cluster: int = 512
    options: dict[str, str] = field(default_factory=dict)
    backing: bool = False

    @property
    def is_old(self) -> bool:
        """Whether it is of version 2."""
        return self.options.get("compat") == "0.10"


class Images(Dice):
    """Makes the images of a run.

    Args:
        seed: Decides everything.
        folder: Where they are.
        features: What may occur.
    """

    def __init__(self, seed: int, folder: Path, features: frozenset[str]) -> None:
        super().__init__(seed)
        self.folder = folder
        self.features = features
        self.codec = Codec(512 if self.often(0.6) else self.any(128, 256))
        self._value = 0

    def has(self, feature: str, share: float = 1.0) -> bool:
        """Return whether this shall occur; what is drawn later does not depend on the features."""
        return self.often(share) and feature in self.features

    def value(self) -> int:
        """Return a new number."""
        self._value += 1
        return self._value

    def content(self, units: int) -> list[int]:
        """Return a random disk."""
        values: list[int] = []
        while len(values) < units:
            length = self.any(1, 3, 8, 64, 256)
            values += [self.any(0, self.value())] * length
        return values[:units]

    def layout(self) -> Layout:
        """Draw an image."""
        if not self.has("qcow2", 0.85):
            return Layout("raw", cluster=self.any(512, 4 * KIB, 64 * KIB))
        bits = self.any(9, 9, 10, 12, 12, 14, 16)
        layout = Layout("qcow2", 1 << bits, {"cluster_size": str(1 << bits)})
        options = layout.options
        if self.has("old", 0.15):
            options["compat"] = "0.10"
            return layout
        if self.often(0.3):
            options["refcount_bits"] = self.any("8", "32", "64", "2")
        if self.has("lazy", 0.25):
            options["lazy_refcounts"] = "on"
        if bits >= 14 and self.has("extended", 0.5):
            options["extended_l2"] = "on"
        if self.has("data-file", 0.12):
            options["data_file"] = "q.data"
        return layout

    def make(self, layout: Layout) -> list[int]:
        """Make the image ``q`` and what lies below; return the content of the disk."""
        unit, cluster = self.codec.unit, layout.cluster
        most = min(max(300 * cluster, 64 * KIB), 512 * KIB if unit == 512 else 128 * KIB)
        size = self.random.randrange(16 * KIB, most + 1, self.any(512, cluster, cluster))
        size = max(512, size - size % 512)
        units = size // unit
        if layout.kind == "raw":
            content = self.content(units)
            (self.folder / "q.raw").write_bytes(self.codec.join(content))
            return content
        content = [0] * units
        below: list[str] = []
        if self.has("backing", 0.35):
            layout.backing = True
            base = self.content(units if self.often(0.6) else max(1, units // 1024) * 512)
            base = base[: len(base) * unit // 512 * 512 // unit]
            (self.folder / "base.raw").write_bytes(self.codec.join(base))
            content[: len(base)] = base[:units]
            below = ["-b", "base.raw", "-F", "raw"]
        words = ",".join(f"{name}={value}" for name, value in layout.options.items())
        tool(
            self.folder,
            *("qemu-img", "create", "-q", "-f", "qcow2", "-o", words, *below),
            *("q.qcow2", str(size)),
        )
        self._fill(layout, content)
        return content

    def _fill(self, layout: Layout, content: list[int]) -> None:
        unit, cluster, size = self.codec.unit, layout.cluster, len(content) * self.codec.unit
        commands: list[str] = []
        noise = self.content(len(content))
        taken: set[int] = set()
        # QEMU 7.2 packs the next compressed cluster into the place of one that was overwritten,
        # even where that place has become an L2 table, and declares its own image corrupt.
        untouched: set[int] = set()
        for number in range(self.any(0, 1, 4, 8)):
            at = self.random.randrange(0, size, cluster)
            length = min(cluster * self.any(1, 1, 2, 5, 20), size - at)
            compress = "data_file" not in layout.options and self.has("compressed", 0.4)
            step = cluster if compress else length
            clusters = set(range(at // cluster, -(-(at + length) // cluster)))
            if clusters & (taken if compress else untouched):
                continue
            taken |= clusters
            if compress:
                untouched |= clusters
            first, stop = at // unit, (at + length) // unit
            content[first:stop] = noise[first:stop]
            for start in range(at, at + length, step):
                part = min(step, at + length - start)
                name = f"part{number}-{start}"
                data = self.codec.join(content[start // unit : (start + part) // unit])
                (self.folder / name).write_bytes(data)
                flag = "-c " if compress else ""
                commands += ["-c", f"write -q {flag}-s {name} {start} {part}"]
        for start in range(0, len(commands), _WRITE):
            tool(
                self.folder, "qemu-io", "-f", "qcow2", *commands[start : start + _WRITE], "q.qcow2"
            )
        for path in self.folder.glob("part*"):
            path.unlink()

    def file(self, name: str, *, wobbly: bool, dies: int = 0) -> Json:
        """Return the definition of a file, at which the daemon may die."""
        path = str(self.folder / name)
        if not wobbly:
            return {"driver": "file", "filename": path, "discard": "unmap"}
        return {
            "driver": "wobbly",
            "filename": path,
            "discard": "unmap",
            "seed": self.random.randrange(1 << 30),
            "turns": self.any(3, 10, 40),
            "kept": self.any(0, 5, 50, 95),
            "dies": dies,
        }

    def options(self, layout: Layout, *, wobbly: bool, dies: int = 0) -> Json:
        """Return the definition of the node ``q``."""
        options: Json = {"driver": layout.kind, "node-name": "q", "discard": "unmap"}
        file = self.file(f"q.{layout.kind}", wobbly=wobbly, dies=dies)
        options["file"] = file | {"node-name": "f"}
        if "data_file" in layout.options:
            options["data-file"] = self.file("q.data", wobbly=wobbly) | {"node-name": "d"}
        if layout.backing:
            base = {"driver": "file", "filename": str(self.folder / "base.raw")}
            options["backing"] = {"driver": "raw", "node-name": "b", "file": base}
        return options | self.changeable(layout)

    def changeable(self, layout: Layout) -> Json:
        """Return options that may change while the node is open."""
        if layout.kind == "raw":
            return {}
        cluster = layout.cluster
        drawn: tuple[tuple[float, str, Any], ...] = (
            (0.2, "detect-zeroes", self.any("on", "unmap")),
            (0.2, "lazy-refcounts", self.often(0.5) and not layout.is_old),
            (0.5, "l2-cache-size", 2 * cluster),
            (0.3, "l2-cache-entry-size", max(512, cluster // self.any(1, 2, 4, 16))),
            (0.5, "refcount-cache-size", 4 * cluster),
            (0.2, "overlap-check", self.any("none", "constant", "all")),
            (0.3, "pass-discard-request", self.often(0.5)),
            (0.3, "pass-discard-other", self.often(0.5)),
        )
        return {name: value for share, name, value in drawn if self.often(share)}
