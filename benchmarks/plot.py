"""A picture of the ratios, by matplotlib where it is installed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.model import NBDKIT, OURS, QSD, AtLeast, Result
from benchmarks.report import Row, rows

_COLOURS: Final = {QSD: "tab:blue", NBDKIT: "tab:orange"}
#: Inches.
_WIDTH: Final = 11.0
_ROW: Final = 0.36


def draw(results: Sequence[Result], path: Path) -> bool:
    """Write a PNG with a bar for each ratio and a mark for each target.

    Returns:
        Whether there was anything to draw.

    Raises:
        ImportError: There is no matplotlib.
    """
    from matplotlib.figure import Figure

    drawn = [row for result in results for row in rows(result) if row.ratios]
    if not drawn:
        return False
    peers = [peer for peer in _COLOURS if any(peer in row.ratios for row in drawn)]
    figure = Figure(figsize=(_WIDTH, 1.5 + _ROW * len(drawn)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log", base=2)
    height = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        shift = (number - (len(peers) - 1) / 2) * height
        bars = [(at + shift, row) for at, row in enumerate(drawn) if peer in row.ratios]
        ratios = [row.ratios[peer] for _, row in bars]
        axes.barh(
            [at for at, _ in bars],
            [ratio - 1 for ratio in ratios],
            height,
            left=1,
            color=_COLOURS[peer],
            label=f"{OURS} : {peer}",
        )
        for (at, _), ratio in zip(bars, ratios, strict=True):
            side = "left" if ratio >= 1 else "right"
            axes.text(ratio, at, f" {ratio:.2g} ", fontsize=6, va="center", ha=side)
        marks = [
            (target.ratio, at)
            for at, row in bars
            for target in row.metric.targets
            if isinstance(target, AtLeast) and target.peer == peer
        ]
        axes.plot(
            [ratio for ratio, _ in marks],
            [at for _, at in marks],
            "|",
            color="red",
            markersize=70 * _ROW * height,
            markeredgewidth=2,
            label="target" if number == 0 else None,
        )
    axes.set_yticks(range(len(drawn)), [_label(row) for row in drawn], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("how many times better (1: equal)")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return True


def _label(row: Row) -> str:
    return f"{row.suite}: {row.name}"
