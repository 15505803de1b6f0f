"""The command line: which suites, beside whom, how much; the table, JSON and plot."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final

from benchmarks import plot, report, runner, suites
from benchmarks.bench import FULL, QUICK, Bench, Scale
from benchmarks.model import NBDKIT, OURS, QSD, Result, Suite
from benchmarks.peers import COMPILED, ENDING, PEERS, Peer

_BUILD: Final = Path(__file__).resolve().parent.parent / "build"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 0, or 1 when something failed, or 128 and a signal's number."""
    loaded = suites.load()
    given = _parse(arguments, loaded)
    peers = _peers(given.peers, interpreted=given.interpreted)
    for number in ENDING:
        signal.signal(number, _interrupt)
    results: list[Result] = []
    parent = given.directory or _default_parent()
    try:
        with Bench(given.scale, parent) as bench:
            for name in given.suites or loaded:
                results += _run(loaded[name], bench, peers)
    except KeyboardInterrupt as signalled:
        return 128 + int(signalled.args[0])
    print()
    for line in report.summary(results):
        print(line)
    programs = {peer.name: peer.program for peer in peers}
    report.write(given.json, report.document(results, given.scale, programs))
    print(f"figures: {given.json}")
    try:
        if plot.draw(results, given.plot):
            print(f"plot: {given.plot}")
    except ImportError:
        print("no plot: matplotlib is not installed", file=sys.stderr)
    return int(any(result.failures for result in results))


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # Only the first counts: the rest must not disturb the clearing up.
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def _run(suite: Suite, bench: Bench, peers: Sequence[Peer]) -> list[Result]:
    names = [peer.name for peer in peers]
    print(f"\n{suite.about} [{suite.name}]\n{report.header(names)}", flush=True)
    results = []
    for result in runner.run(suite, bench, peers):
        results.append(result)
        for line in report.lines(result, names):
            print(line, flush=True)
    return results


def _peers(wanted: Sequence[str], *, interpreted: bool) -> list[Peer]:
    peers = [PEERS[name] for name in (OURS, *wanted)]
    if not interpreted and COMPILED.installed:
        peers[0] = COMPILED
    print(f"{OURS} is {peers[0].program}")
    for peer in peers:
        if not peer.installed:
            print(f"not installed, left out: {peer.program}", file=sys.stderr)
    return [peer for peer in peers if peer.installed]


def _default_parent() -> Path:
    parent = Path(os.environ.get("TMPDIR") or _BUILD)
    parent.mkdir(parents=True, exist_ok=True)
    return parent


def _parse(arguments: Sequence[str] | None, loaded: dict[str, Suite]) -> argparse.Namespace:
    listing = "\n".join(f"  {suite.name:<10}{suite.about}" for suite in loaded.values())
    parser = argparse.ArgumentParser(
        prog="benchmarks/run",
        description="Measure qmpfleece and others in turn, on the same files.",
        epilog=f"suites:\n{listing}\n\nThe exit status is 1 when a measurement failed; "
        "a target that is missed is only said.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="all, if none is given")
    parser.add_argument(
        "--peers",
        type=_names,
        default=[QSD, NBDKIT],
        metavar="NAME,...",
        help=f"whom to measure beside us (default: {QSD},{NBDKIT})",
    )
    parser.add_argument(
        "--interpreted",
        action="store_true",
        help="measure the checkout as it is, though build/compiled is there (make compiled)",
    )
    parser.add_argument("--quick", action="store_true", help="a few minutes; figures vary")
    parser.add_argument("--rounds", type=int, metavar="N", help="measurements of each peer")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each load")
    parser.add_argument(
        "--directory",
        type=Path,
        help="where to make the images (default: $TMPDIR, or build/ in the checkout)",
    )
    parser.add_argument("--json", type=Path, default=_BUILD / "bench.json", metavar="FILE")
    parser.add_argument("--plot", type=Path, default=_BUILD / "bench.png", metavar="FILE")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.suites if name not in loaded]:
        parser.error(f"no such suite: {', '.join(unknown)}")
    given.scale = _scale(given)
    return given


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name and name != OURS]
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"no such peer: {', '.join(unknown)}")
    return names


def _scale(given: argparse.Namespace) -> Scale:
    scale: Scale = QUICK if given.quick else FULL
    changes = {
        name: value
        for name in ("rounds", "seconds")
        if (value := getattr(given, name)) is not None
    }
    return replace(scale, **changes)
