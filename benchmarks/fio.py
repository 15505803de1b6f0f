"""Loads on an export: fio's nbd engine, its figures read from its JSON."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

from benchmarks.model import MeasurementError
from benchmarks.peers import child, last_words

_PATIENCE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Load:
    """What clients do.

    Attributes:
        rw: fio's word: randread, write, randrw, ...
        block: Bytes of a request.
        depth: Requests in flight on each connection.
        rate: Requests a second at most; 0 is no limit.
    """

    rw: str
    block: int
    depth: int
    connections: int = 1
    rate: int = 0
    reads_percent: int = 50

    def options(self, uri: str) -> list[str]:
        """Return fio's options for one job on an export."""
        return [
            "--name=load",
            "--thread",
            "--ioengine=nbd",
            f"--uri={uri}",
            f"--rw={self.rw}",
            f"--rwmixread={self.reads_percent}",
            f"--bs={self.block}",
            f"--iodepth={self.depth}",
            *([f"--rate_iops={self.rate}"] if self.rate else []),
            # A map of 16 TiB would not fit into memory.
            "--norandommap",
            "--output-format=json",
        ]


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a load, over all connections."""

    iops: float
    bytes_s: float
    p99_us: float


def timed(uri: str, load: Load, seconds: float, folder: Path) -> Report:
    """Run a load for a while; its first fifth does not count.

    Raises:
        MeasurementError: A request failed, or fio did.
    """
    return _run(folder, *_timed(uri, load, seconds))


def write_once(uri: str, offsets: Sequence[int], length: int, load: Load, folder: Path) -> Report:
    """Write at each offset, in this order; they are dealt out to the connections.

    Fio leaves when it has sent its last request, up to ``depth`` of them unanswered. So the
    first ones are done again at the end, and what counts is what was answered.

    Args:
        uri: The export.
        offsets: Each once.
        length: Of each write.
        load: Says depth and connections.
        folder: For fio's lists of requests.
    """
    command: list[str] = []
    for number in range(load.connections):
        own = offsets[number :: load.connections]
        log = folder / f"requests-{number}"
        with log.open("w") as file:
            file.write("fio version 2 iolog\ndisk add\ndisk open\n")
            for offset in islice(cycle(own), len(own) + load.depth):
                file.write(f"disk write {offset} {length}\n")
            file.write("disk close\n")
        command += [*load.options(uri), f"--read_iolog={log}", "--replay_no_stall=1"]
    return _run(folder, *command)


def write_strided(uri: str, count: int, stride: int, depth: int, folder: Path) -> Report:
    """Write 4 KiB at each multiple of ``stride``, in order; unlike above all is answered."""
    load = Load(f"write:{stride - 4096}", 4096, depth)
    return _run(folder, *load.options(uri), f"--io_size={count * 4096}")


@dataclass(slots=True)
class Background:
    """A load that goes on until it is stopped."""

    process: subprocess.Popen[bytes]
    _output: bytes = b""

    def stop(self) -> Report:
        """End it; return what it saw: all zeroes when nothing was answered."""
        if self.process.poll() is not None:
            raise MeasurementError("the load in the background ended early")
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=_PATIENCE_S)
        return _parse(output)


@contextlib.contextmanager
def background(uri: str, load: Load, folder: Path) -> Iterator[Background]:
    """Run a load beside the block; it ends with it."""
    command = ["fio", *load.options(uri), "--time_based", "--runtime=3600"]
    with child(*command, folder=folder, output=subprocess.PIPE) as process:
        yield Background(process)


def _timed(uri: str, load: Load, seconds: float) -> list[str]:
    ramp_ms, ms = int(seconds * 200), int(seconds * 800)
    return [
        *load.options(uri),
        f"--numjobs={load.connections}",
        "--group_reporting",
        "--time_based",
        f"--ramp_time={ramp_ms}ms",
        f"--runtime={max(ms, 10)}ms",
    ]


def _run(folder: Path, *options: str) -> Report:
    errors = folder / "fio-errors"
    with child("fio", *options, folder=folder, errors=errors, output=subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=_PATIENCE_S)
        if process.returncode:
            raise MeasurementError(f"fio failed: {last_words(errors)}")
    report = _parse(output)
    if not report.iops:
        raise MeasurementError("no request was answered")
    return report


def _parse(output: bytes) -> Report:
    # Notes may come before the document.
    jobs: list[dict[str, Any]] = json.loads(output[output.index(b"{") :])["jobs"]
    if any(job["error"] for job in jobs):
        raise MeasurementError("requests failed")
    sides = [job[side] for job in jobs for side in ("read", "write")]
    sides = [side for side in sides if side["clat_ns"]["N"]]
    if not sides:
        return Report(0.0, 0.0, 0.0)
    # Jobs that begin together but do not end together: the last one's end counts.
    seconds = max(side["runtime"] for side in sides) / 1000
    percentile = max(side["clat_ns"]["percentile"]["99.000000"] for side in sides)
    return Report(
        iops=sum(side["clat_ns"]["N"] for side in sides) / seconds,
        bytes_s=sum(side["io_bytes"] for side in sides) / seconds,
        p99_us=percentile / 1000,
    )
