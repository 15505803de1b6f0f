"""A qcow2 image, exported: reads and writes of what is allocated, and writes that allocate."""

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import exported, fio, images
from benchmarks.bench import Bench
from benchmarks.exported import Entry
from benchmarks.fio import Load
from benchmarks.model import DAEMONS, AtLeast, Case, Figures, Metric, Suite
from benchmarks.peers import Peer, Server, Setup

_READS: Final = (AtLeast(1.5),)
_ENTRIES: Final = (
    Entry("4 KiB random read, depth 1", exported.RANDOM_READ_1, _READS),
    Entry("4 KiB random read, depth 32", exported.RANDOM_READ, _READS),
    Entry("1 MiB read, depth 8", exported.READ, _READS),
    Entry("4 KiB random overwrite, depth 32", exported.RANDOM_WRITE),
    Entry("1 MiB overwrite, depth 8", exported.WRITE),
    Entry("4 KiB mixed 70/30, depth 32", exported.MIXED),
)
_DEPTH: Final = {4096: 32, images.MIB: 8}


def _image(path: Path) -> Setup:
    return Setup(
        daemon=(
            f"--blockdev=driver=file,node-name=file,filename={path}",
            "--blockdev=driver=qcow2,node-name=disk,file=file",
            "--export=type=nbd,id=disk,node-name=disk,name=disk,writable=on",
        )
    )


def _serve_allocated(bench: Bench, peer: Peer) -> AbstractContextManager[Server]:
    return bench.serving(peer, _image(exported.qcow2_disk(bench)))


def _allocate(bench: Bench, peer: Peer, *, block: int, connections: int) -> Figures:
    """Write to each cluster for the first time: a fresh image, to its end."""
    size = bench.scale.disk
    if block == images.MIB:
        offsets = list(range(0, size, images.MIB))
    else:
        offsets = images.shuffled_clusters(size)
    load = Load("randwrite", block, _DEPTH[block], connections)
    with bench.fresh() as folder:
        path = folder / "fresh.qcow2"
        images.qcow2(path, size)
        with bench.serving(peer, _image(path)) as server:
            bench.fetch_memory()
            report = fio.write_once(server.uri(), offsets, block, load, folder)
        images.check(path)
    return {"rate": report.iops if block < images.MIB else report.bytes_s / 1e6}


def _allocating() -> tuple[Case, ...]:
    return tuple(
        Case(
            name=f"{name} that allocates, depth {_DEPTH[block]}, {connections} conn.",
            metrics=(Metric("rate", unit, (AtLeast(1.0),)),),
            measure=partial(_allocate, block=block, connections=connections),
            peers=DAEMONS,
        )
        for name, block, unit in (
            ("4 KiB random write", 4096, "1/s"),
            ("1 MiB write", images.MIB, "MB/s"),
        )
        for connections in exported.CONNECTIONS
    )


SUITE: Final = Suite(
    name="qcow2",
    about="A qcow2 image, exported",
    cases=(*exported.cases(_ENTRIES, _serve_allocated, peers=DAEMONS), *_allocating()),
)
