"""Real NBD servers for tests: qemu-nbd and nbdkit on a unix socket."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_S = 20.0

needs_qemu = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="needs qemu-utils")
needs_nbdkit = pytest.mark.skipif(shutil.which("nbdkit") is None, reason="needs nbdkit")


@contextlib.contextmanager
def qemu_nbd(path: Path, image: Path, *options: str) -> Iterator[str]:
    """Export ``image`` as ``disk`` and yield the URI; writable unless options say ``-r``."""
    serving = ["qemu-nbd", "--persistent", "--shared=8", "-x", "disk", "-k", str(path)]
    with _running([*serving, *options, str(image)], path):
        yield f"nbd+unix:///disk?socket={path}"


@contextlib.contextmanager
def nbdkit(path: Path, *arguments: str) -> Iterator[str]:
    """Run a plugin with filters and yield the URI."""
    with _running(["nbdkit", "--foreground", "--unix", str(path), *arguments], path):
        yield f"nbd+unix:///?socket={path}"


@contextlib.contextmanager
def _running(command: list[str], path: Path) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        _wait_for(process, path)
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S / 10)
        except subprocess.TimeoutExpired:  # a client of a failed test holds it
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], path: Path) -> None:
    """Return once somebody listens."""
    for _ in range(int(PATIENCE_S / 0.01)):
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(path))
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(0.01)
            raise AssertionError(f"{process.args} ended with status {status}")
    raise AssertionError(f"{process.args} does not listen at {path}")
