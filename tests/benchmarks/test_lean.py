"""The client for loads that fio is too slow for."""

from pathlib import Path

import pytest

from benchmarks import images, lean
from benchmarks.bench import QUICK, Bench
from benchmarks.fio import Load
from benchmarks.model import OURS, MeasurementError
from benchmarks.peers import PEERS, Setup

_LOAD = Load("randread", 4096, 8, connections=2)


def _rate(bench: Bench, path: Path) -> float:
    graph = (
        f"--blockdev=driver=file,node-name=disk,filename={path}",
        "--export=type=nbd,id=disk,node-name=disk,name=disk",
    )
    with bench.serving(PEERS[OURS], Setup(graph)) as server:
        return lean.rate(server.uri(), _LOAD, 0.1, bench.folder)


def test_replies_are_counted_over_all_connections(tmp_path: Path):
    with Bench(QUICK, tmp_path) as bench:
        images.filled(bench.folder / "disk", 4 * images.MIB)
        assert _rate(bench, bench.folder / "disk") > 0


def test_a_reply_without_data_is_no_figure(tmp_path: Path):
    with Bench(QUICK, tmp_path) as bench:
        images.sparse(bench.folder / "disk", 4 * images.MIB)
        with pytest.raises(MeasurementError, match="not a reply of data alone"):
            _rate(bench, bench.folder / "disk")
