"""Cases that are loads on an export: the same ones for every kind of node."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import images, lean
from benchmarks.bench import Bench
from benchmarks.fio import Load
from benchmarks.model import EVERYBODY, Case, Figures, Metric, Target
from benchmarks.peers import Peer, Server, Setup

#: With one connection and with more; the depth is that of each.
CONNECTIONS: Final = (1, 4)


@dataclass(frozen=True, slots=True)
class Entry:
    """One load, and what must come out.

    Attributes:
        lean: Not fio makes the load, which would be what is measured.
    """

    name: str
    load: Load
    targets: tuple[Target, ...] = ()
    lean: bool = False


RANDOM_READ_1: Final = Load("randread", 4096, 1)
RANDOM_READ: Final = Load("randread", 4096, 32)
READ: Final = Load("read", images.MIB, 8)
RANDOM_WRITE: Final = Load("randwrite", 4096, 32)
WRITE: Final = Load("write", images.MIB, 8)
MIXED: Final = Load("randrw", 4096, 32, reads_percent=70)

#: Makes what is needed and runs a server for it.
Serve = Callable[[Bench, Peer], AbstractContextManager[Server]]


def cases(
    entries: Iterable[Entry],
    serve: Serve,
    *,
    export: str = "disk",
    peers: tuple[str, ...] = EVERYBODY,
    prefix: str = "",
) -> Iterator[Case]:
    """Yield a case for each entry and number of connections."""
    for entry in entries:
        for connections in CONNECTIONS:
            load = replace(entry.load, connections=connections)
            small = load.block < images.MIB
            metric = Metric("rate", "1/s" if small else "MB/s", entry.targets)
            yield Case(
                name=f"{prefix}{entry.name}, {connections} conn.",
                metrics=(metric,),
                measure=partial(
                    _measure_lean if entry.lean else _measure,
                    load=load,
                    serve=serve,
                    export=export,
                ),
                peers=peers,
            )


def _measure(bench: Bench, peer: Peer, *, load: Load, serve: Serve, export: str) -> Figures:
    with serve(bench, peer) as server:
        report = bench.load(server.uri(export), load)
    return {"rate": report.iops if load.block < images.MIB else report.bytes_s / 1e6}


def _measure_lean(bench: Bench, peer: Peer, *, load: Load, serve: Serve, export: str) -> Figures:
    with serve(bench, peer) as server:
        return {"rate": lean.rate(server.uri(export), load, bench.scale.seconds, bench.folder)}


def raw_disk(bench: Bench) -> Path:
    """Return a raw file full of data; it is warm."""
    bench.keep_memory()
    size = bench.scale.disk
    path = bench.shared(f"disk-{size}.raw", lambda path: images.filled(path, size))
    bench.keep_warm(path)
    return path


def qcow2_disk(bench: Bench) -> Path:
    """Return a qcow2 image of that disk, all allocated; it is warm."""
    raw = raw_disk(bench)
    path = bench.shared(f"disk-{bench.scale.disk}.qcow2", lambda path: images.qcow2_of(path, raw))
    bench.keep_warm(path)
    return path


def serve_raw(bench: Bench, peer: Peer) -> AbstractContextManager[Server]:
    """Serve a raw file full of data."""
    path = raw_disk(bench)
    graph = (
        f"--blockdev=driver=file,node-name=disk,filename={path}",
        "--export=type=nbd,id=disk,node-name=disk,name=disk,writable=on",
    )
    return bench.serving(peer, Setup(graph, nbdkit=("file", str(path))))
