"""What a suite says of itself: its cases, what each yields, and what must come out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.peers import Peer

OURS: Final = "qmpfleece"
QSD: Final = "qsd"
NBDKIT: Final = "nbdkit"
#: Those that take the command line of qemu-storage-daemon and speak QMP.
DAEMONS: Final = (OURS, QSD)
EVERYBODY: Final = (OURS, QSD, NBDKIT)


class MeasurementError(Exception):
    """A measurement that gave no figures; the text says why."""


class UnavailableError(Exception):
    """This machine cannot do what a case needs; the text says what."""


@dataclass(frozen=True, slots=True)
class AtLeast:
    """We are to be so many times as fast as a peer."""

    ratio: float
    peer: str = QSD

    def __str__(self) -> str:
        return f">= {self.ratio:g} x {self.peer}"


@dataclass(frozen=True, slots=True)
class Below:
    """Our own figure is to stay below a limit, in the metric's unit."""

    limit: float

    def __str__(self) -> str:
        return f"< {self.limit:g}"


Target = AtLeast | Below


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure that a measurement yields.

    Attributes:
        lower: Less is better, as with times and memory.
    """

    name: str
    unit: str
    targets: tuple[Target, ...] = ()
    lower: bool = False

    def ratio(self, ours: float, theirs: float) -> float | None:
        """Return how many times better we are than a peer; None if one did nothing at all."""
        if not ours or not theirs:
            return None
        return theirs / ours if self.lower else ours / theirs


#: By the metrics' names.
Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure, the same for every peer."""

    name: str
    metrics: tuple[Metric, ...]
    measure: "Callable[[Bench, Peer], Figures]"
    peers: tuple[str, ...] = EVERYBODY


@dataclass(frozen=True, slots=True)
class Suite:
    """The cases of one topic."""

    name: str
    about: str
    cases: tuple[Case, ...]


@dataclass(slots=True)
class Result:
    """What one case yielded: a list of figures a round, by metric and peer."""

    suite: str
    case: Case
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    left_out: str = ""

    def add(self, peer: str, figures: Figures) -> None:
        """Take the figures of one round."""
        wanted = {metric.name for metric in self.case.metrics}
        assert figures.keys() == wanted, (figures, wanted)
        for metric, figure in figures.items():
            self.figures.setdefault(metric, {}).setdefault(peer, []).append(figure)
