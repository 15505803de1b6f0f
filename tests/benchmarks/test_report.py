"""Medians, spreads, ratios, and which targets are met."""

import json
from pathlib import Path

import pytest

from benchmarks import plot, report
from benchmarks.bench import QUICK
from benchmarks.model import NBDKIT, OURS, QSD, AtLeast, Below, Case, Metric, Result


def _result(metric: Metric, **figures: list[float]) -> Result:
    result = Result("suite", Case("case", (metric,), lambda *_: {}))
    rounds = max(map(len, figures.values()))
    for number in range(rounds):
        for peer, each in figures.items():
            if number < len(each):
                result.add(peer, {metric.name: each[number]})
    return result


def _row(metric: Metric, **figures: list[float]) -> report.Row:
    (row,) = report.rows(_result(metric, **figures))
    return row


def test_the_median_of_the_rounds_counts_and_not_the_best():
    row = _row(Metric("rate", "1/s"), qmpfleece=[10, 90, 30], qsd=[20, 10, 15])
    assert row.medians == {OURS: 30, QSD: 15}
    assert row.spreads == {OURS: 80 / 30, QSD: 10 / 15}
    assert row.ratios == {QSD: 2}


def test_less_is_better_for_times():
    row = _row(Metric("time", "ms", lower=True), qmpfleece=[10], qsd=[20], nbdkit=[5])
    assert row.ratios == {QSD: 2, NBDKIT: 0.5}


def test_nothing_done_has_no_ratio():
    assert _row(Metric("rate", "1/s"), qmpfleece=[10], qsd=[0]).ratios == {}


@pytest.mark.parametrize(
    ("target", "ours", "met"),
    [
        (AtLeast(1.5), 30, True),
        (AtLeast(1.5), 29, False),
        (AtLeast(1.0, NBDKIT), 100, None),
        (Below(31), 30, True),
        (Below(30), 30, False),
    ],
)
def test_a_target_is_met_missed_or_not_measured(target, ours, met):
    row = _row(Metric("rate", "1/s", (target,)), qmpfleece=[ours], qsd=[20])
    assert row.met(target) is met


def test_the_summary_names_what_was_missed_and_what_failed():
    missed = _result(Metric("rate", "1/s", (AtLeast(2.0),)), qmpfleece=[10], qsd=[20])
    missed.failures[NBDKIT] = "it died"
    met = _result(Metric("rate", "1/s", (AtLeast(2.0),)), qmpfleece=[40], qsd=[20])
    assert list(report.summary([missed, met])) == [
        "1 of 2 targets met",
        "  MISSED: suite, case >= 2 x qsd",
        "  FAILED: suite, case, nbdkit: it died",
    ]


def test_the_table_shows_a_gap_for_who_was_not_measured():
    result = _result(Metric("rate", "1/s", (AtLeast(2.0),)), qmpfleece=[40, 60], qsd=[20, 20])
    (line,) = report.lines(result, [OURS, QSD, NBDKIT])
    assert " ".join(line.split()) == "case 1/s 50 ± 20% 20 ± 0% - 2.50 >= 2 x qsd: met"


def test_the_document_is_json_with_every_figure():
    metric = Metric("rate", "1/s", (AtLeast(2.0),))
    document = report.document([_result(metric, qmpfleece=[10], qsd=[0])], QUICK, {})
    (row,) = json.loads(json.dumps(document, allow_nan=False))["results"]
    assert row["figures"] == {OURS: [10], QSD: [0]}
    assert row["targets"] == [{"target": ">= 2 x qsd", "met": None}]


def test_the_plot_is_a_png(tmp_path: Path):
    pytest.importorskip("matplotlib")
    metric = Metric("rate", "1/s", (AtLeast(2.0), AtLeast(1.0, NBDKIT)))
    result = _result(metric, qmpfleece=[10], qsd=[20], nbdkit=[4])
    assert plot.draw([result], tmp_path / "made" / "plot.png")
    assert (tmp_path / "made" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_drawn_without_a_ratio(tmp_path: Path):
    pytest.importorskip("matplotlib")
    assert not plot.draw([_result(Metric("rate", "1/s"), qmpfleece=[10])], tmp_path / "plot.png")
