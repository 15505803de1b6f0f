"""Guest and backup client on one disk: copy-before-write below, snapshot-access beside it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import exported, fio, images, lean
from benchmarks.bench import Bench
from benchmarks.exported import Entry
from benchmarks.fio import Load
from benchmarks.model import (
    DAEMONS,
    NBDKIT,
    AtLeast,
    Case,
    Figures,
    MeasurementError,
    Metric,
    Suite,
)
from benchmarks.peers import Peer, Server, Setup

_DEPTH: Final = 32
#: The guest's steady load, far below what either daemon can do.
_STEADY: Final = Load("randwrite", 4096, 4, rate=2000)
_PATIENCE_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class _Fleecing:
    """A running snapshot.

    Attributes:
        temp: The temporary image; nbdkit has none that can be looked at.
    """

    server: Server
    temp: Path


@contextlib.contextmanager
def _fleecing(bench: Bench, peer: Peer, temp_format: str = "raw") -> Iterator[_Fleecing]:
    """Fleece a warm disk full of data with a fresh temporary image."""
    size, disk = bench.scale.disk, exported.raw_disk(bench)
    with bench.fresh() as folder:
        temp = folder / "temp"
        if temp_format == "qcow2":
            images.qcow2(temp, size)
        else:
            images.sparse(temp, size)
        graph = (
            f"--blockdev=driver=file,node-name=disk,filename={disk}",
            f"--blockdev=driver=file,node-name=temp-file,filename={temp}",
            f"--blockdev=driver={temp_format},node-name=temp,file=temp-file",
            "--blockdev=driver=copy-before-write,node-name=cbw,file=disk,target=temp",
            "--blockdev=driver=snapshot-access,node-name=access,file=cbw",
            "--export=type=nbd,id=guest,node-name=cbw,name=guest,writable=on",
            "--export=type=nbd,id=snapshot,node-name=access,name=snapshot",
        )
        # The nearest thing: writes go to a temporary file, the disk stays as it is.
        cow = ("--filter=cow", "file", str(disk))
        with bench.serving(peer, Setup(graph, cow)) as server:
            bench.fetch_memory()
            yield _Fleecing(server, temp)


#: Writes at each offset of the export at a URI, and returns the writes a second.
_WriteOnce = Callable[[str, Sequence[int], Load, Path], float]


def _guest_writes(
    bench: Bench, peer: Peer, *, connections: int, temp_format: str, write_once: _WriteOnce
) -> Figures:
    """Write once into every cluster, in random order; then do the same again.

    That is over too soon to tell much, so it is repeated, each time with a new snapshot.
    """
    offsets = images.shuffled_clusters(bench.scale.disk)
    load = Load("randwrite", 4096, _DEPTH, connections)
    written, spent = 0, [0.0, 0.0]
    while spent[0] < bench.scale.seconds:
        with bench.fresh() as folder, _fleecing(bench, peer, temp_format) as fleecing:
            uri = fleecing.server.uri("guest")
            for turn in range(2):
                rate = write_once(uri, offsets, load, folder)
                spent[turn] += len(offsets) / rate
            _expect_all_copied(fleecing.server, bench.scale.disk)
        written += len(offsets)
    return {"first touch": written / spent[0], "again": written / spent[1]}


def _write_by_fio(uri: str, offsets: Sequence[int], load: Load, folder: Path) -> float:
    return fio.write_once(uri, offsets, load.block, load, folder).iops


def _guest_writes_in_order(bench: Bench, peer: Peer) -> Figures:
    """Write once into every cluster, in order; then do the same again."""
    count = bench.scale.disk // images.CLUSTER
    with _fleecing(bench, peer) as fleecing:
        uri = fleecing.server.uri("guest")
        first, again = (
            fio.write_strided(uri, count, images.CLUSTER, _DEPTH, bench.folder) for _ in range(2)
        )
        if peer.name != NBDKIT:
            _expect_all_copied(fleecing.server, bench.scale.disk)
    return {"first touch": first.iops, "again": again.iops}


def _expect_all_copied(server: Server, size: int) -> None:
    with server.qmp() as qmp:
        nodes = qmp.execute("query-named-block-nodes")
    bitmaps = next(node["dirty-bitmaps"] for node in nodes if node["node-name"] == "cbw")
    # Access and done: both cover the disk once every cluster is copied.
    if any(bitmap["count"] != size for bitmap in bitmaps):
        raise MeasurementError(f"clusters were not copied: {bitmaps}")


@contextlib.contextmanager
def _snapshot(bench: Bench, peer: Peer) -> Iterator[Server]:
    with _fleecing(bench, peer) as fleecing:
        yield fleecing.server


def _copies(bench: Bench, server: Server) -> float:
    """Copy the snapshot for as long as a load runs, once at least; return MB a second."""
    spent, copied = 0.0, 0
    while spent < bench.scale.seconds:
        spent += bench.timed("nbdcopy", server.uri("snapshot"), "null:")
        copied += bench.scale.disk
    return copied / spent / 1e6


def _copy_idle(bench: Bench, peer: Peer) -> Figures:
    with _fleecing(bench, peer) as fleecing:
        return {"copied": _copies(bench, fleecing.server)}


def _copy_under_writes(bench: Bench, peer: Peer) -> Figures:
    with (
        _fleecing(bench, peer) as fleecing,
        fio.background(fleecing.server.uri("guest"), _STEADY, bench.folder) as guest,
    ):
        deadline = time.monotonic() + _PATIENCE_S
        while not fleecing.temp.stat().st_blocks:
            if time.monotonic() > deadline:
                raise MeasurementError("the guest does not write")
            time.sleep(0.01)
        copied = _copies(bench, fleecing.server)
        report = guest.stop()
    return {"copied": copied, "their p99": report.p99_us}


_SNAPSHOT: Final = (
    Entry("snapshot, 4 KiB random read, depth 32, fio", exported.RANDOM_READ),
    Entry(
        "snapshot, 4 KiB random read, depth 32", exported.RANDOM_READ, (AtLeast(3.0),), lean=True
    ),
    Entry("snapshot, 1 MiB read, depth 8", exported.READ),
)


def _guest_cases() -> Iterator[Case]:
    for connections, temp_format, is_lean in (
        (1, "raw", False),
        (4, "raw", False),
        (1, "raw", True),
        (4, "raw", True),
        (1, "qcow2", True),
    ):
        client = "" if is_lean else ", fio"
        targets = (AtLeast(2.0),) if is_lean and temp_format == "raw" else ()
        yield Case(
            name=f"guest's 4 KiB random write, {temp_format}{client}, {connections} conn.",
            metrics=(Metric("first touch", "1/s", targets), Metric("again", "1/s")),
            measure=partial(
                _guest_writes,
                connections=connections,
                temp_format=temp_format,
                write_once=lean.write_once if is_lean else _write_by_fio,
            ),
            peers=DAEMONS,  # nbdkit has the next case
        )
    yield Case(
        name="guest's 4 KiB write in each cluster, in order",
        metrics=(Metric("first touch", "1/s"), Metric("again", "1/s")),
        measure=_guest_writes_in_order,
    )


SUITE: Final = Suite(
    name="fleecing",
    about="A snapshot of a raw disk, with guest and backup client",
    cases=(
        *_guest_cases(),
        *exported.cases(_SNAPSHOT, _snapshot, export="snapshot"),
        Case(
            name="nbdcopy of the snapshot, idle",
            metrics=(Metric("copied", "MB/s", (AtLeast(1.2),)),),
            measure=_copy_idle,
        ),
        Case(
            name="nbdcopy of the snapshot, guest writes",
            metrics=(
                Metric("copied", "MB/s", (AtLeast(1.5),)),
                Metric("their p99", "us", lower=True),
            ),
            measure=_copy_under_writes,
            peers=DAEMONS,
        ),
    ),
)
