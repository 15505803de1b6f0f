"""The control plane: QMP round trips, the start, and QMP while a disk hangs."""

import contextlib
import itertools
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import exported, fio, images
from benchmarks.bench import Bench, Scale
from benchmarks.fio import Load
from benchmarks.model import (
    DAEMONS,
    QSD,
    AtLeast,
    Below,
    Case,
    Figures,
    MeasurementError,
    Metric,
    Suite,
    UnavailableError,
)
from benchmarks.peers import PEERS, Peer, Server, Setup, child, ended
from benchmarks.qmp import Qmp

_PATIENCE_S: Final = 20.0
_NODES: Final = 10
_HUNG: Final = 64 * images.MIB
#: Those that a monitoring client asks again and again. None looks at a disk: in both daemons
#: query-named-block-nodes asks the host's file system for the size of each file.
_QUERIES: Final = ("query-version", "query-block-exports", "query-jobs")
_PACE_S: Final = 0.002
#: What the other export is asked for, far below what either daemon can do.
_BESIDE: Final = Load("randread", 4096, 4, rate=2000)


def _round_trips(bench: Bench, peer: Peer, *, command: str) -> Figures:
    nodes = [
        f"--blockdev=driver=null-co,node-name=node{number},size={images.GIB}"
        for number in range(_NODES)
    ]
    count = bench.scale.round_trips
    with bench.serving(peer, Setup(nodes)) as server, server.qmp() as qmp:
        qmp.round_trips(command, count // 10)
        return {"rate": count / sum(qmp.round_trips(command, count))}


def _start(bench: Bench, peer: Peer) -> Figures:
    """Measure from the start of the process to the first byte of the greeting, on stdout."""
    times = []
    command = (peer.program, "--chardev=stdio,id=monitor", "--monitor=monitor")
    for _ in range(bench.scale.starts):
        begin = time.perf_counter()
        with child(*command, folder=bench.folder, output=subprocess.PIPE) as process:
            assert process.stdout is not None
            if not os.read(process.stdout.fileno(), 1):
                raise MeasurementError("no greeting")
            times.append(time.perf_counter() - begin)
    return {"time": statistics.median(times) * 1000}


@contextlib.contextmanager
def _fuse_file(folder: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Mount a file whose file system is a process: the FUSE export of qemu-storage-daemon.

    Raises:
        UnavailableError: Mounting is not possible here.
    """
    path, ready = folder / "slow-disk", folder / "slow-pid"
    path.touch()
    command = (
        PEERS[QSD].program,
        f"--blockdev=driver=null-co,node-name=null,size={_HUNG},read-zeroes=on",
        f"--export=type=fuse,id=fuse,node-name=null,mountpoint={path},writable=on",
        f"--pidfile={ready}",
    )
    errors = folder / "slow-errors"
    with child(*command, folder=folder, errors=errors) as process:
        deadline = time.monotonic() + _PATIENCE_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                said = errors.read_text(errors="replace").strip()
                raise UnavailableError(f"no FUSE mount: {said}")
            time.sleep(0.005)
        try:
            yield path, process
        finally:
            # Stopped or not: its requests fail, then nothing holds the mount.
            process.kill()
            process.wait()
            subprocess.run(["umount", "-l", str(path)], stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def _stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def _hanging_disk(bench: Bench, peer: Peer) -> Figures:
    """Time QMP and another export while a client waits for a disk that does not answer."""
    if not PEERS[QSD].installed:
        raise UnavailableError("no qemu-storage-daemon to mount a file with")
    good = exported.raw_disk(bench)
    with bench.fresh() as folder, _fuse_file(folder) as (hung, file_system):
        graph = (
            f"--blockdev=driver=file,node-name=hung,filename={hung}",
            f"--blockdev=driver=file,node-name=disk,filename={good}",
            "--export=type=nbd,id=hung,node-name=hung,name=hung",
            "--export=type=nbd,id=disk,node-name=disk,name=disk",
        )
        with bench.serving(peer, Setup(graph)) as server, server.qmp(bench.scale.silence_s) as qmp:
            # As many requests as the client may have, on all its connections.
            copy = ("nbdcopy", "--no-extents", server.uri("hung"), "null:")
            with (
                fio.background(server.uri(), _BESIDE, folder) as beside,
                contextlib.ExitStack() as stack,
            ):
                _await_reads(server)
                with _stopped(file_system):
                    waiting = stack.enter_context(child(*copy, folder=folder))
                    slowest = _slowest(qmp, bench.scale)
                    if waiting.poll() is not None:
                        raise MeasurementError("the disk did not hang")
                if ended(waiting, _PATIENCE_S) != 0:
                    raise MeasurementError("the disk did not come back")
                report = beside.stop()
    return {"slowest QMP reply": slowest * 1000, "another export": report.iops}


def _await_reads(server: Server) -> None:
    """Return once the load on the other export has begun."""
    deadline = time.monotonic() + _PATIENCE_S
    before = server.bytes_read()
    while server.bytes_read() < before + images.MIB:
        if time.monotonic() > deadline:
            raise MeasurementError("the load does not begin")
        time.sleep(0.01)


def _slowest(qmp: Qmp, scale: Scale) -> float:
    """Ask at a steady pace for a while; return the seconds of the slowest reply."""
    slowest = 0.0
    end = time.monotonic() + scale.seconds
    for command in itertools.cycle(_QUERIES):
        try:
            slowest = max(slowest, *qmp.round_trips(command, 1))
        except TimeoutError:  # the daemon hangs with its disk
            return scale.silence_s
        if time.monotonic() > end:
            break
        time.sleep(_PACE_S)
    return slowest


def _rate(command: str) -> Case:
    return Case(
        name=f"{command}, {_NODES} nodes",
        metrics=(Metric("rate", "1/s", (AtLeast(1.0),)),),
        measure=partial(_round_trips, command=command),
        peers=DAEMONS,
    )


SUITE: Final = Suite(
    name="control",
    about="QMP and the start",
    cases=(
        _rate("query-version"),
        _rate("query-named-block-nodes"),
        Case(
            name="start to greeting",
            metrics=(Metric("time", "ms", (Below(200),), lower=True),),
            measure=_start,
            peers=DAEMONS,
        ),
        Case(
            name="while a disk hangs",
            metrics=(
                Metric("slowest QMP reply", "ms", (Below(100),), lower=True),
                Metric("another export", "1/s"),
            ),
            measure=_hanging_disk,
            peers=DAEMONS,
        ),
    ),
)
