"""Measuring in turn: A B B A, so that a slow moment of the machine hits everybody.

Who comes second finds what the first one has left: memory that the machine has at hand, caches.
So nobody is always the first.
"""

from collections.abc import Iterator, Sequence
from subprocess import TimeoutExpired

from benchmarks.bench import Bench
from benchmarks.model import Case, MeasurementError, Result, Suite, UnavailableError
from benchmarks.peers import Peer


def run(suite: Suite, bench: Bench, peers: Sequence[Peer]) -> Iterator[Result]:
    """Measure each case of a suite; give each result as soon as it is there."""
    for case in suite.cases:
        yield measure(suite, case, bench, peers)


def measure(suite: Suite, case: Case, bench: Bench, peers: Sequence[Peer]) -> Result:
    """Measure all that can do a case, in turn; one that fails is not asked again."""
    result = Result(suite.name, case)
    for number in range(bench.scale.rounds):
        for peer in peers if number % 2 == 0 else reversed(peers):
            if peer.name not in case.peers or peer.name in result.failures:
                continue
            try:
                result.add(peer.name, case.measure(bench, peer))
            except UnavailableError as reason:
                result.left_out = str(reason)
                return result
            except (MeasurementError, OSError, TimeoutExpired, ValueError, LookupError) as error:
                result.failures[peer.name] = str(error) or type(error).__name__
    return result
