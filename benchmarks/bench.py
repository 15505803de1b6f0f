"""What a measurement works with: sizes, shared images, fresh folders, servers, loads."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from benchmarks import at_hand, fio, images
from benchmarks.images import GIB, MIB
from benchmarks.model import MeasurementError
from benchmarks.peers import Peer, Server, Setup, child, ended, serve

_PATIENCE_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done.

    Attributes:
        rounds: Measurements of each peer. Many and short: where the system puts the threads of
            a server and of its clients differs from start to start, and hardly afterwards.
        seconds: Of a load, each.
        disk: Bytes of a disk full of data.
        memory: Bytes kept at hand, for the disk and what is written beside it.
        extents: Pieces of data in a fragmented image.
        scattered: Writes that spread over a large bitmap.
        round_trips: Of QMP.
        starts: Of a daemon, each measurement; the median counts.
        silence_s: No QMP reply for so long counts as this time.
    """

    rounds: int = 5
    seconds: float = 1.5
    disk: int = GIB
    memory: int = 4 * GIB
    extents: int = 20_000
    scattered: int = 50_000
    round_trips: int = 5000
    starts: int = 10
    silence_s: float = 3.0


FULL: Final = Scale()
#: A look at everything in a few minutes; the figures vary.
QUICK: Final = Scale(
    rounds=1,
    seconds=0.5,
    disk=512 * MIB,
    memory=2 * GIB,
    extents=2000,
    scattered=5000,
    round_trips=500,
    starts=3,
)


class Bench:
    """A place to measure in; use it as a context manager, nothing is left behind.

    Args:
        scale: How much is done.
        parent: Where the images are made.
    """

    def __init__(self, scale: Scale, parent: Path | None) -> None:
        self.scale = scale
        self._stack = contextlib.ExitStack()
        self._parent = parent
        self._has_memory = False
        self._cached: set[Path] = set()

    def __enter__(self) -> Self:
        self.folder = Path(
            self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix="bench-", dir=self._parent)
            )
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def keep_memory(self) -> None:
        """Keep memory at hand from now on, for those who measure what fills the page cache."""
        if not self._has_memory:
            self._has_memory = True
            self._stack.enter_context(at_hand.kept(self.scale.memory))

    def fetch_memory(self) -> None:
        """Have memory at hand for what is measured next, if that fills a disk at once."""
        at_hand.fetch(self.scale.disk * 5 // 4)

    def keep_warm(self, path: Path) -> None:
        """Bring an image without large holes to rest, in the page cache, and keep it there."""
        images.warm(path)
        if path not in self._cached:
            self._cached.add(path)
            self._stack.enter_context(at_hand.cached(path))

    def shared(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return an image that all peers use, one after the other; make it if it is not there."""
        path = self.folder / name
        if not path.exists():
            part = path.with_suffix(".part")
            make(part)
            part.rename(path)
        return path

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """Give a folder that is removed after the block."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            yield Path(name)

    @contextlib.contextmanager
    def serving(self, peer: Peer, setup: Setup) -> Iterator[Server]:
        """Run a server for the length of the block."""
        # A socket's path has 108 bytes at most, and a checkout may lie deep.
        with (
            self.fresh() as folder,
            tempfile.TemporaryDirectory(prefix="qmpfleece-bench-", dir="/tmp") as sockets,
            serve(peer, setup, folder, Path(sockets)) as server,
        ):
            yield server

    def load(self, uri: str, load: fio.Load) -> fio.Report:
        """Run a load for the time that the scale gives."""
        return fio.timed(uri, load, self.scale.seconds, self.folder)

    def timed(self, *command: object) -> float:
        """Run a program; return its seconds.

        Raises:
            MeasurementError: It failed.
        """
        if shutil.which(str(command[0])) is None:
            raise MeasurementError(f"{command[0]} is not installed")
        errors = self.folder / "errors"
        begin = time.perf_counter()
        with child(*command, folder=self.folder, errors=errors) as process:
            status = ended(process, _PATIENCE_S)
        seconds = time.perf_counter() - begin
        if status:
            raise MeasurementError(f"{command[0]}: {errors.read_text(errors='replace').strip()}")
        return seconds
