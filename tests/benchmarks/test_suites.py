"""Every suite yields figures for everybody: small, and nothing is said about time."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import runner, suites
from benchmarks.bench import QUICK, Bench
from benchmarks.images import MIB
from benchmarks.model import Case, Suite
from benchmarks.peers import PEERS
from tests.tools.programs import needs

_TINY = replace(
    QUICK,
    rounds=1,
    seconds=0.05,
    disk=8 * MIB,
    memory=4 * MIB,
    extents=50,
    scattered=200,
    round_trips=20,
    starts=1,
    silence_s=0.2,
)
_SUITES = suites.load()


def _some(suite: Suite) -> list[Case]:
    """Give one case for each measuring function and set of peers."""
    chosen: dict[object, Case] = {}
    for case in suite.cases:
        chosen[getattr(case.measure, "func", case.measure), case.peers] = case
    return list(chosen.values())


@needs("qemu-storage-daemon", "qemu-img", "qemu-io", "nbdkit", "nbdcopy", "nbdinfo", "fio")
@pytest.mark.parametrize("name", _SUITES)
def test_a_suite_yields_figures_for_everybody(name: str, tmp_path: Path):
    suite = _SUITES[name]
    with Bench(_TINY, tmp_path) as bench:
        for case in _some(suite):
            result = runner.measure(suite, case, bench, list(PEERS.values()))
            if result.left_out:
                assert "FUSE" in result.left_out
                continue
            assert result.failures == {}
            for metric in case.metrics:
                assert set(result.figures[metric.name]) == set(case.peers)
                for figures in result.figures[metric.name].values():
                    assert len(figures) == 1
                    assert figures[0] >= 0
    assert list(tmp_path.iterdir()) == []
