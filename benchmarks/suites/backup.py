"""Backup jobs, from the command to BLOCK_JOB_COMPLETED."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import exported, fio, images
from benchmarks.bench import Bench
from benchmarks.fio import Load
from benchmarks.model import DAEMONS, AtLeast, Case, Figures, MeasurementError, Metric, Suite
from benchmarks.peers import Peer, Server, Setup
from benchmarks.qmp import Qmp

#: An incremental backup is of a disk so many times as large, as little of it is copied.
_LARGER: Final = 16
_DIRTY: Final = 0.01
_GUEST: Final = Load("randwrite", images.CLUSTER, 16)


def _node(name: str, driver: str, path: Path) -> list[str]:
    return [
        f"--blockdev=driver=file,node-name={name}-file,filename={path}",
        f"--blockdev=driver={driver},node-name={name},file={name}-file",
    ]


def _empty(path: Path, driver: str, size: int) -> None:
    (images.qcow2 if driver == "qcow2" else images.sparse)(path, size)


@contextmanager
def _serving(
    bench: Bench, peer: Peer, source: tuple[str, Path], target: str, size: int
) -> Iterator[tuple[Server, Path]]:
    """Run a daemon with a source, exported, and a fresh target."""
    with bench.fresh() as folder:
        path = folder / "target"
        _empty(path, target, size)
        graph = [
            *_node("disk", *source),
            *_node("target", target, path),
            "--export=type=nbd,id=disk,node-name=disk,name=disk,writable=on",
        ]
        with bench.serving(peer, Setup(graph)) as server:
            yield server, path


def _back_up(qmp: Qmp, **arguments: Any) -> tuple[float, int]:
    """Run a job to its end; return its seconds and bytes."""
    begin = time.perf_counter()
    qmp.execute(
        "blockdev-backup", {"job-id": "job", "device": "disk", "target": "target", **arguments}
    )
    data = qmp.event("BLOCK_JOB_COMPLETED")
    seconds = time.perf_counter() - begin
    if "error" in data:
        raise MeasurementError(f"the backup failed: {data['error']}")
    return seconds, data["len"]


def _full(bench: Bench, peer: Peer, *, source: str, target: str) -> Figures:
    path = exported.raw_disk(bench) if source == "raw" else exported.qcow2_disk(bench)
    size = bench.scale.disk
    with (
        _serving(bench, peer, (source, path), target, size) as (server, _),
        server.qmp() as qmp,
    ):
        bench.fetch_memory()
        seconds, length = _back_up(qmp, sync="full")
    if length != size:
        raise MeasurementError(f"{length} of {size} bytes were copied")
    return {"copied": length / seconds / 1e6}


def _incremental(bench: Bench, peer: Peer, *, driver: str) -> Figures:
    """Copy what a guest wrote: one cluster in a hundred, scattered."""
    size = bench.scale.disk * _LARGER
    clusters = size // images.CLUSTER
    dirty = random.Random(0).sample(range(clusters), int(clusters * _DIRTY))
    offsets = [number * images.CLUSTER for number in dirty]
    # Allocated before, or the first who is measured would find another image than the rest.
    source = bench.shared(
        f"incremental-{size}.raw", lambda path: images.scattered(path, size, offsets)
    )
    if driver == "qcow2":
        raw = source
        source = bench.shared(f"incremental-{size}.qcow2", lambda path: images.qcow2_of(path, raw))
    images.settle(source)
    with (
        _serving(bench, peer, (driver, source), driver, size) as (server, target),
        server.qmp() as qmp,
    ):
        qmp.execute(
            "block-dirty-bitmap-add",
            {"node": "disk", "name": "bitmap", "granularity": images.CLUSTER},
        )
        fio.write_once(server.uri(), offsets, images.CLUSTER, _GUEST, target.parent)
        seconds, length = _back_up(qmp, sync="incremental", bitmap="bitmap")
    if length != len(dirty) * images.CLUSTER:
        raise MeasurementError(f"{length} bytes were copied, {len(dirty)} clusters were dirty")
    return {"copied": length / seconds / 1e6}


def _case(name: str, measure: Callable[[Bench, Peer], Figures], target: float | None) -> Case:
    targets = () if target is None else (AtLeast(target),)
    return Case(name, (Metric("copied", "MB/s", targets),), measure, DAEMONS)


SUITE: Final = Suite(
    name="backup",
    about="Backup jobs",
    cases=(
        _case("raw to raw", partial(_full, source="raw", target="raw"), 1.0),
        _case("raw to qcow2", partial(_full, source="raw", target="qcow2"), None),
        _case("qcow2 to qcow2", partial(_full, source="qcow2", target="qcow2"), 1.0),
        _case("raw, incremental, 1 % dirty", partial(_incremental, driver="raw"), None),
        _case("qcow2, incremental, 1 % dirty", partial(_incremental, driver="qcow2"), None),
    ),
)
