"""Who is measured, and how each is started: with the same options where it takes them."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.model import NBDKIT, OURS, QSD, MeasurementError
from benchmarks.qmp import Qmp

_PATIENCE_S: Final = 30.0
#: The signals that end a run.
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Peer:
    """A program under measurement."""

    name: str
    program: str

    @property
    def installed(self) -> bool:
        """Whether it can be run here."""
        return shutil.which(self.program) is not None


PEERS: Final = {
    OURS: Peer(OURS, str(Path(sys.executable).with_name("qmpfleece-qsd"))),
    QSD: Peer(QSD, "qemu-storage-daemon"),
    NBDKIT: Peer(NBDKIT, "nbdkit"),
}
#: Ours as ``make compiled`` builds it.
COMPILED: Final = Peer(
    OURS, str(Path(__file__).resolve().parent.parent / "build/compiled/bin/qmpfleece-qsd")
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a server is to serve.

    Attributes:
        daemon: Options of the storage daemons, without those of server and monitor.
        nbdkit: What nbdkit takes for the same, where it can.
    """

    daemon: Sequence[str]
    nbdkit: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    folder: Path

    def uri(self, export: str = "disk") -> str:
        """Return where clients find an export; nbdkit has one that takes every name."""
        return f"nbd+unix:///{export}?socket={self.folder / 'nbd'}"

    def qmp(self, patience_s: float = 20.0) -> Qmp:
        """Connect a monitor's client."""
        return Qmp(self.folder / "qmp", patience_s)

    def peak_bytes(self) -> int:
        """Return the most memory that the process had resident."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise MeasurementError("the server is gone")

    def bytes_read(self) -> int:
        """Return how much the process has read from files so far."""
        counts = Path(f"/proc/{self.process.pid}/io").read_text()
        return int(counts.partition("rchar:")[2].split()[0])


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep signals back until the block ends: one must not get between a fork and its owner."""
    kept: list[int] = []
    handlers = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, lambda number, _frame: kept.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if kept:
            signal.raise_signal(kept[0])


@contextlib.contextmanager
def child(
    *command: object, folder: Path, errors: Path | None = None, output: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the length of a block; nothing of it is left afterwards.

    It gets a session of its own: a Ctrl-C reaches it through us, in order.

    Args:
        command: The program and its arguments.
        folder: Where it runs, and makes its temporary files.
        errors: Where its complaints go, which are dropped otherwise.
        output: ``subprocess.PIPE`` to read its output, which is dropped otherwise.
    """
    process: subprocess.Popen[bytes] | None = None
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(errors.open("wb")) if errors else subprocess.DEVNULL
        try:
            with _undisturbed():
                process = subprocess.Popen(
                    [str(word) for word in command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL if output is None else output,
                    stderr=log,
                    cwd=folder,
                    env=os.environ | {"TMPDIR": str(folder)},
                    start_new_session=True,
                )
            yield process
        finally:
            if process is not None:
                if process.poll() is None:
                    process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()


def ended(process: subprocess.Popen[bytes], patience_s: float) -> int:
    """Wait for a program; return its status the moment it ends.

    ``Popen.wait`` with a limit looks now and then only, which would be measured.

    Raises:
        MeasurementError: It did not end in time.
    """
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(patience_s * 1000):
            raise MeasurementError(f"it does not end: {process.args!r}")
    finally:
        os.close(descriptor)
    return process.wait()


@contextlib.contextmanager
def serve(peer: Peer, setup: Setup, folder: Path, sockets: Path) -> Iterator[Server]:
    """Run a server until the block ends.

    Args:
        peer: Which.
        setup: What it serves.
        folder: For its temporary files.
        sockets: An empty directory with a short path.

    Raises:
        MeasurementError: It did not start, died, or did not end well.
    """
    ready, errors = sockets / "pid", folder / "errors"
    socket = sockets / "nbd"
    if peer.name == NBDKIT:
        own = ["--foreground", f"--pidfile={ready}", "--unix", str(socket), *setup.nbdkit]
    else:
        own = [
            f"--chardev=socket,id=monitor,path={sockets / 'qmp'},server=on,wait=off",
            "--monitor=monitor",
            f"--nbd-server=addr.type=unix,addr.path={socket},max-connections=0",
            *setup.daemon,
            f"--pidfile={ready}",
        ]
    with child(peer.program, *own, folder=folder, errors=errors) as process:
        _await_file(process, ready, peer, errors)
        try:
            yield Server(process, sockets)
        except Exception as error:
            if process.poll() is not None:
                raise MeasurementError(_died(peer, process, errors)) from error
            raise
        if process.poll() is not None:
            raise MeasurementError(_died(peer, process, errors))
        process.send_signal(signal.SIGTERM)
        status = ended(process, _PATIENCE_S)
        # Nbdkit 1.32 aborts at times, told to end just when its clients have left.
        if status != 0 and peer.name != NBDKIT:
            raise MeasurementError(_died(peer, process, errors))


def _await_file(process: subprocess.Popen[bytes], path: Path, peer: Peer, errors: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not path.exists():
        if process.poll() is not None:
            raise MeasurementError(_died(peer, process, errors))
        if time.monotonic() > deadline:
            raise MeasurementError(f"{peer.name} did not start")
        time.sleep(0.002)


def last_words(errors: Path) -> str:
    """Return the last line of what a program has complained about."""
    said = errors.read_text(errors="replace").strip().splitlines()
    return said[-1] if said else "it said nothing"


def _died(peer: Peer, process: subprocess.Popen[bytes], errors: Path) -> str:
    return f"{peer.name} ended with status {process.returncode}: {last_words(errors)}"
