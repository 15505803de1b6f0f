"""What is printed and written: medians, spreads, ratios, and whether each target is met."""

import json
import platform
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Scale
from benchmarks.model import OURS, AtLeast, Metric, Result, Target

#: Columns for a row's name.
_NAME: Final = 54


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one case.

    Attributes:
        name: Of the case, and of the metric where it has several.
        medians: By peer.
        spreads: By peer: from the least to the most, as a part of the median.
        ratios: How many times better we are, by peer.
    """

    suite: str
    name: str
    metric: Metric
    figures: dict[str, list[float]]
    medians: dict[str, float]
    spreads: dict[str, float]
    ratios: dict[str, float]

    def met(self, target: Target) -> bool | None:
        """Return whether a target is met; None when a figure for it is missing."""
        if isinstance(target, AtLeast):
            ratio = self.ratios.get(target.peer)
            return None if ratio is None else ratio >= target.ratio
        ours = self.medians.get(OURS)
        return None if ours is None else ours < target.limit


def rows(result: Result) -> Iterator[Row]:
    """Yield what a case's figures come to."""
    for metric in result.case.metrics:
        figures = result.figures.get(metric.name, {})
        medians = {peer: statistics.median(each) for peer, each in figures.items()}
        spreads = {
            peer: (max(each) - min(each)) / medians[peer] if medians[peer] else 0.0
            for peer, each in figures.items()
        }
        ours = medians.get(OURS)
        ratios = {
            peer: ratio
            for peer, theirs in medians.items()
            if peer != OURS and ours and (ratio := metric.ratio(ours, theirs)) is not None
        }
        name = result.case.name
        if len(result.case.metrics) > 1:
            name = f"{name}: {metric.name}"
        yield Row(result.suite, name, metric, figures, medians, spreads, ratios)


def header(peers: Sequence[str]) -> str:
    """Return the line above the table of a suite."""
    columns = "".join(f"{peer:>20}" for peer in peers)
    ratios = "".join(f"{'x ' + peer:>10}" for peer in peers if peer != OURS)
    return f"{'':<{_NAME + 6}}{columns}{ratios}  target"


def lines(result: Result, peers: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table for a case."""
    for row in rows(result):
        name = row.name
        if len(name) > _NAME:  # two lines then
            yield name
            name = ""
        columns = "".join(_figure(row, peer) for peer in peers)
        ratios = "".join(
            f"{row.ratios[peer]:>10.2f}" if peer in row.ratios else f"{'':>10}"
            for peer in peers
            if peer != OURS
        )
        targets = ", ".join(f"{target}: {_word(row.met(target))}" for target in row.metric.targets)
        yield f"{name:<{_NAME}}{row.metric.unit:>6}{columns}{ratios}  {targets}".rstrip()
    if result.left_out:
        yield f"{result.case.name}: left out: {result.left_out}"
    for peer, reason in result.failures.items():
        yield f"{result.case.name}: {peer} FAILED: {reason}"


def _figure(row: Row, peer: str) -> str:
    if peer not in row.medians:
        return f"{'-':>20}"
    median = row.medians[peer]
    number = f"{median:,.0f}" if median >= 100 else f"{median:,.3g}"
    return f"{number:>12} ±{row.spreads[peer] / 2:>5.0%} "


def _word(met: bool | None) -> str:  # noqa: FBT001 - three values
    return {True: "met", False: "MISSED", None: "not measured"}[met]


def summary(results: Sequence[Result]) -> Iterator[str]:
    """Yield the closing lines: targets, then what failed."""
    verdicts = [
        (row, target, row.met(target))
        for result in results
        for row in rows(result)
        for target in row.metric.targets
    ]
    met = sum(verdict is True for _, _, verdict in verdicts)
    yield f"{met} of {len(verdicts)} targets met"
    for row, target, verdict in verdicts:
        if verdict is not True:
            yield f"  {_word(verdict)}: {row.suite}, {row.name} {target}"
    for result in results:
        for peer, reason in result.failures.items():
            yield f"  FAILED: {result.suite}, {result.case.name}, {peer}: {reason}"


def document(results: Sequence[Result], scale: Scale, programs: dict[str, str]) -> dict[str, Any]:
    """Return all figures as a JSON object; units and orders as in the table."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processors": _processors(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "programs": {name: _version(program) for name, program in programs.items()},
        "scale": {name: getattr(scale, name) for name in Scale.__slots__},
        "results": [_row(row) for result in results for row in rows(result)],
        "left-out": [
            {"suite": result.suite, "case": result.case.name, "reason": result.left_out}
            for result in results
            if result.left_out
        ],
        "failures": [
            {"suite": result.suite, "case": result.case.name, "peer": peer, "reason": reason}
            for result in results
            for peer, reason in result.failures.items()
        ],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write the document to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _row(row: Row) -> dict[str, Any]:
    return {
        "suite": row.suite,
        "name": row.name,
        "metric": row.metric.name,
        "unit": row.metric.unit,
        "lower-is-better": row.metric.lower,
        "figures": row.figures,
        "median": row.medians,
        "spread": row.spreads,
        "ratio": row.ratios,
        "targets": [
            {"target": str(target), "met": row.met(target)} for target in row.metric.targets
        ],
    }


def _processors() -> list[str]:
    text = Path("/proc/cpuinfo").read_text()
    return [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]
