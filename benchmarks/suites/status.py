"""Block status of large images: what a backup client asks before it copies."""

from functools import partial
from typing import Final

from benchmarks import images
from benchmarks.bench import Bench
from benchmarks.model import DAEMONS, EVERYBODY, Case, Figures, Metric, Suite
from benchmarks.peers import Peer, Setup

_SIZE: Final = images.TIB


def _map(bench: Bench, peer: Peer, *, snapshot: bool) -> Figures:
    extents = bench.scale.extents
    path = bench.shared(
        f"fragmented-{extents}.raw", lambda path: images.fragmented(path, _SIZE, extents)
    )
    with bench.fresh() as folder:
        graph = [f"--blockdev=driver=file,node-name=disk,filename={path}"]
        if snapshot:
            images.sparse(folder / "temp", _SIZE)
            graph += [
                f"--blockdev=driver=file,node-name=temp,filename={folder / 'temp'}",
                "--blockdev=driver=copy-before-write,node-name=cbw,file=disk,target=temp",
                "--blockdev=driver=snapshot-access,node-name=access,file=cbw",
            ]
        node = "access" if snapshot else "disk"
        graph.append(f"--export=type=nbd,id=disk,node-name={node},name=disk")
        with bench.serving(peer, Setup(graph, nbdkit=("-r", "file", str(path)))) as server:
            seconds = bench.timed("nbdinfo", "--map", server.uri())
    return {"time": seconds * 1000}


def _case(name: str, peers: tuple[str, ...], *, snapshot: bool) -> Case:
    metric = Metric("time", "ms", lower=True)
    return Case(name, (metric,), partial(_map, snapshot=snapshot), peers)


SUITE: Final = Suite(
    name="status",
    about="Block status of a fragmented, sparse 1 TiB image (nbdinfo --map)",
    cases=(
        _case("raw file", EVERYBODY, snapshot=False),
        _case("snapshot of it", DAEMONS, snapshot=True),
    ),
)
