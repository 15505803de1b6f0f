"""Dirty bitmaps of a 16 TiB disk by 64 KiB: through QMP and NBD, and ours alone in one process."""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks import fio, images
from benchmarks.bench import Bench
from benchmarks.fio import Load
from benchmarks.model import DAEMONS, OURS, AtLeast, Case, Figures, MeasurementError, Metric, Suite
from benchmarks.peers import Peer, Setup

_SIZE: Final = 16 * images.TIB
_GRANULARITY: Final = 64 * 1024
#: Large areas that are dirty beside the scattered granules.
_AREAS: Final = [(number * 2 * images.TIB, images.GIB // 4) for number in range(8)]
_REPEATS: Final = 3
_GUEST: Final = Load("randwrite", 4096, 32)
_GRAPH: Final = (
    f"--blockdev=driver=null-co,node-name=disk,size={_SIZE},read-zeroes=on",
    "--export=type=nbd,id=disk,node-name=disk,name=disk,writable=on",
)


def _scattered(count: int) -> list[int]:
    granules = random.Random(0).sample(range(_SIZE // _GRANULARITY), count)
    return [granule * _GRANULARITY for granule in granules]


def _on_disk(name: str, **more: Any) -> dict[str, Any]:
    return {"node": "disk", "name": name, **more}


def _through_qmp(bench: Bench, peer: Peer) -> Figures:
    """Set by a guest's writes; add, merge, count and sha256 by commands; iterate over NBD."""
    offsets = _scattered(bench.scale.scattered)
    with bench.fresh() as folder, bench.serving(peer, Setup(_GRAPH)) as server:
        zero = [f"-cwrite -z {offset} {length}" for offset, length in _AREAS]
        with server.qmp() as qmp:
            add = qmp.time(
                "block-dirty-bitmap-add", _on_disk("scattered", granularity=_GRANULARITY)
            )
            written = fio.write_once(server.uri(), offsets, 4096, _GUEST, folder)
            qmp.execute("block-dirty-bitmap-disable", _on_disk("scattered"))
            qmp.execute("block-dirty-bitmap-add", _on_disk("areas", granularity=_GRANULARITY))
            bench.timed("qemu-io", "-f", "raw", *zero, server.uri())
            qmp.execute("block-dirty-bitmap-disable", _on_disk("areas"))
            merges = []
            for number in range(_REPEATS):
                name = f"merged{number}"
                target = _on_disk(name, granularity=_GRANULARITY, disabled=True)
                qmp.execute("block-dirty-bitmap-add", target)
                sources = {"node": "disk", "target": name, "bitmaps": ["scattered", "areas"]}
                merges.append(qmp.time("block-dirty-bitmap-merge", sources))
            counts = [qmp.time("query-named-block-nodes") for _ in range(_REPEATS)]
            hashes = [
                qmp.time("x-debug-block-dirty-bitmap-sha256", _on_disk("merged0"))
                for _ in range(_REPEATS)
            ]
            _check(qmp.execute("query-named-block-nodes"), bench.scale.scattered)
            qmp.execute(
                "block-export-add",
                {
                    "type": "nbd",
                    "id": "map",
                    "node-name": "disk",
                    "name": "map",
                    "bitmaps": ["merged0"],
                },
            )
            iterate = bench.timed("nbdinfo", "--map=qemu:dirty-bitmap:merged0", server.uri("map"))
    return {
        "set by guest's writes": written.iops,
        "add": add * 1000,
        "merge": statistics.median(merges) * 1000,
        "count": statistics.median(counts) * 1000,
        "sha256": statistics.median(hashes) * 1000,
        "iterate": iterate * 1000,
    }


def _check(nodes: list[dict[str, Any]], scattered: int) -> None:
    """Look whether the merged bitmap holds what was set."""
    bitmaps = {bitmap["name"]: bitmap["count"] for bitmap in nodes[0]["dirty-bitmaps"]}
    areas = sum(length for _, length in _AREAS)
    if bitmaps["scattered"] != scattered * _GRANULARITY or bitmaps["areas"] != areas:
        raise MeasurementError(f"not what was written is dirty: {bitmaps}")
    if not areas < bitmaps["merged0"] <= areas + bitmaps["scattered"]:
        raise MeasurementError(f"not what was merged is dirty: {bitmaps}")


def _in_process(bench: Bench, _peer: Peer) -> Figures:
    from qmpfleece.bitmap.bits import GranularBits

    offsets = _scattered(bench.scale.scattered)
    scattered, areas, merged = (GranularBits(_SIZE, _GRANULARITY) for _ in range(3))

    def ms(action: Callable[[], object]) -> float:
        begin = time.perf_counter()
        action()
        return (time.perf_counter() - begin) * 1000

    def set_scattered() -> None:
        for offset in offsets:
            scattered.set(offset, 4096)

    def set_areas() -> None:
        for offset, length in _AREAS:
            areas.set(offset, length)

    each_us = ms(set_scattered) * 1000 / len(offsets)
    areas_ms = ms(set_areas)
    merged.merge(scattered)
    merge_ms = ms(lambda: merged.merge(areas))
    return {
        "set a granule": each_us,
        "set 8 areas": areas_ms,
        "merge": merge_ms,
        "count": ms(lambda: merged.count),
        "iterate": ms(lambda: sum(1 for _ in merged.areas())),
        "sha256": ms(merged.sha256),
    }


def _ms(name: str, *targets: AtLeast) -> Metric:
    return Metric(name, "ms", targets, lower=True)


SUITE: Final = Suite(
    name="bitmaps",
    about="Dirty bitmaps of 16 TiB by 64 KiB",
    cases=(
        Case(
            name="through QMP and NBD",
            metrics=(
                Metric("set by guest's writes", "1/s"),
                _ms("add"),
                _ms("merge", AtLeast(1.0)),
                _ms("count", AtLeast(1.0)),
                _ms("sha256"),
                _ms("iterate"),
            ),
            measure=_through_qmp,
            peers=DAEMONS,
        ),
        Case(
            name="in one process",
            metrics=(
                Metric("set a granule", "us", lower=True),
                _ms("set 8 areas"),
                _ms("merge"),
                _ms("count"),
                _ms("iterate"),
                _ms("sha256"),
            ),
            measure=_in_process,
            peers=(OURS,),
        ),
    ),
)
