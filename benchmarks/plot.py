"""A picture of the ratios, by matplotlib where it is installed."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.model import OURS, QSD, AtLeast, Result
from benchmarks.report import Row, rows


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
    peers = sorted({peer for row in drawn for peer in row.ratios}, key=lambda peer: peer != QSD)
    figure = Figure(figsize=(11, 1.5 + 0.36 * len(drawn)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    height = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        with_peer = [(at, row) for at, row in enumerate(drawn) if row.ratios.get(peer)]
        axes.barh(
            [at + (number - (len(peers) - 1) / 2) * height for at, _ in with_peer],
            [row.ratios[peer] - 1 for _, row in with_peer],
            height,
            left=1,
            label=f"{OURS} : {peer}",
        )
        marks = [
            (target.ratio, at + (number - (len(peers) - 1) / 2) * height)
            for at, row in with_peer
            for target in row.metric.targets
            if isinstance(target, AtLeast) and target.peer == peer
        ]
        label = f"target, to {peer}"
        axes.plot(*zip(*marks, strict=True), "|k", label=label) if marks else None
    axes.set_yticks(range(len(drawn)), [_label(row) for row in drawn], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("how many times better (1: equal)")
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return True


def _label(row: Row) -> str:
    name = f"{row.suite}: {row.case}"
    return (
        name
        if row.metric.name in {"rate", "copied", "time", "peak"}
        else f"{name}: {row.metric.name}"
    )
