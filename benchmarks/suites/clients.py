"""Many NBD clients at once."""

from typing import Final

from benchmarks import exported
from benchmarks.bench import Bench
from benchmarks.fio import Load
from benchmarks.model import Case, Figures, Metric, Suite
from benchmarks.peers import Peer

_CLIENTS: Final = 100


def _measure(bench: Bench, peer: Peer) -> Figures:
    with exported.serve_raw(bench, peer) as server:
        report = bench.load(server.uri(), Load("randread", 4096, 1, connections=_CLIENTS))
    return {"rate": report.iops, "p99": report.p99_us}


SUITE: Final = Suite(
    name="clients",
    about=f"{_CLIENTS} NBD clients at once",
    cases=(
        Case(
            name=f"4 KiB random read, depth 1, {_CLIENTS} conn.",
            metrics=(Metric("rate", "1/s"), Metric("p99", "us", lower=True)),
            measure=_measure,
        ),
    ),
)
