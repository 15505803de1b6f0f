"""Peak memory (VmHWM) of the server's process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks import exported, images
from benchmarks.bench import Bench
from benchmarks.fio import Load
from benchmarks.model import DAEMONS, EVERYBODY, Below, Case, Figures, Metric, Suite
from benchmarks.peers import Peer, Server, Setup

_SIZE: Final = 10 * images.TIB
_LARGE: Final = Load("rw", images.MIB, 8)


def _figures(server: Server) -> Figures:
    return {"peak": server.peak_bytes() / 1e6}


def _plain(bench: Bench, peer: Peer) -> Figures:
    """Read and write, in small pieces and large ones."""
    with exported.serve_raw(bench, peer) as server:
        for load in (exported.MIXED, _LARGE):
            bench.load(server.uri(), load)
        return _figures(server)


@contextmanager
def _fleecing(bench: Bench, peer: Peer) -> Iterator[Server]:
    with bench.fresh() as folder:
        # Both are fresh: whatever the guest writes is gone afterwards.
        for name in ("disk", "temp"):
            images.sparse(folder / name, _SIZE)
        graph = [
            f"--blockdev=driver=file,node-name=disk,filename={folder / 'disk'}",
            f"--blockdev=driver=file,node-name=temp,filename={folder / 'temp'}",
            "--blockdev=driver=copy-before-write,node-name=cbw,file=disk,target=temp",
            "--blockdev=driver=snapshot-access,node-name=access,file=cbw",
            "--export=type=nbd,id=guest,node-name=cbw,name=guest,writable=on",
            "--export=type=nbd,id=snapshot,node-name=access,name=snapshot",
        ]
        with bench.serving(peer, Setup(graph)) as server:
            yield server


def _large_idle(bench: Bench, peer: Peer) -> Figures:
    with bench.fresh() as folder:
        images.sparse(folder / "disk", _SIZE)
        graph = (
            f"--blockdev=driver=file,node-name=disk,filename={folder / 'disk'}",
            "--export=type=nbd,id=disk,node-name=disk,name=disk,writable=on",
        )
        setup = Setup(graph, nbdkit=("file", str(folder / "disk")))
        with bench.serving(peer, setup) as server:
            bench.timed("nbdinfo", server.uri())
            return _figures(server)


def _large_fleecing(bench: Bench, peer: Peer) -> Figures:
    """The guest writes all over the disk, then the snapshot is mapped and read."""
    with _fleecing(bench, peer) as server:
        bench.load(server.uri("guest"), Load("randwrite", 4096, 32))
        bench.timed("nbdinfo", "--map", server.uri("snapshot"))
        bench.load(server.uri("snapshot"), Load("randread", images.MIB, 8))
        return _figures(server)


def _peak(*targets: Below) -> tuple[Metric, ...]:
    return (Metric("peak", "MB", targets, lower=True),)


SUITE: Final = Suite(
    name="memory",
    about="Peak memory of the server",
    cases=(
        Case("plain export, under load", _peak(Below(70)), _plain),
        Case("sparse 10 TiB disk, idle", _peak(), _large_idle, EVERYBODY),
        Case("sparse 10 TiB disk, fleecing", _peak(Below(150)), _large_fleecing, DAEMONS),
    ),
)
