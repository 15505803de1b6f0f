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
        with pytest.raises(MeasurementError, match="not the reply that was due"):
            _rate(bench, bench.folder / "disk")


def _write_once(bench: Bench, path: Path, offsets: list[int], **export: str) -> float:
    graph = (
        f"--blockdev=driver=file,node-name=disk,filename={path}",
        "--export=type=nbd,id=disk,node-name=disk,name=disk"
        + "".join(f",{name}={value}" for name, value in export.items()),
    )
    load = Load("randwrite", 512, 8, connections=3)
    with bench.serving(PEERS[OURS], Setup(graph)) as server:
        return lean.write_once(server.uri(), offsets, load, bench.folder)


@pytest.mark.parametrize("count", [3, 7, 1000])
def test_each_offset_is_written_once_and_no_other(tmp_path: Path, count: int):
    with Bench(QUICK, tmp_path) as bench:
        disk = bench.folder / "disk"
        images.sparse(disk, images.MIB)
        offsets = [number * 1024 for number in range(count)]
        assert _write_once(bench, disk, offsets, writable="on") > 0
        data = disk.read_bytes()
    written = [at for at in range(0, len(data), 512) if any(data[at : at + 512])]
    assert written == offsets


def test_a_write_that_fails_is_no_figure(tmp_path: Path):
    with Bench(QUICK, tmp_path) as bench:
        images.sparse(bench.folder / "disk", images.MIB)
        with pytest.raises(MeasurementError, match="not the reply that was due"):
            _write_once(bench, bench.folder / "disk", [0, 512, 1024])
