"""What is drawn from a seed, run on both daemons: where they first differ."""

import re
import sys
from collections.abc import Callable, Iterable
from itertools import takewhile, zip_longest
from typing import Final

from tests.oracle import scenario

#: How much is shown before and after the place where two lines differ.
_AROUND: Final = 200
#: How many lines are shown before.
_BEFORE: Final = 4
#: Where QEMU has died of an assertion, there is nothing to compare any more.
_DIED: Final = "** the connection ended"
#: What Python says of our mistakes, also of those that change no reply; QEMU never does.
_FAULT: Final = re.compile(
    r"stderr: .*(Traceback |\w(Error|Exception|Warning)\b|Exception |Fatal Python "
    r"|failed unexpectedly|never (awaited|retrieved)|was destroyed)"
)


def difference(
    function: scenario.Scenario,
    comparable: Callable[[list[str]], list[str]],
    excused: Callable[[str], str] = str,
) -> list[str]:
    """Run a function on both daemons; return the lines where they first differ, none if equal.

    Whatever is comparable, a fault that ours tells on stderr is a difference, and so is that
    ours could not go on.

    Args:
        function: A scenario without a name.
        comparable: Leaves out of a transcript what is not to be compared.
        excused: Puts right what is wrong in a line of QEMU's.
    """
    pair = scenario.STORAGE_DAEMON
    qemu, ours = (scenario.run_function(function, program) for program in (pair.qemu, pair.ours))
    faults = [line for line in ours if _FAULT.match(line)] + scenario.stops(ours)
    if faults:
        return [f"+{line}" for line in faults]
    qemu, ours = [excused(line) for line in comparable(qemu)], comparable(ours)
    if any(line.startswith(_DIED) for line in qemu):
        # Its last reply is the last thing that counts: it may have died of a client's request.
        end = 1 + max(at for at, line in enumerate(qemu) if line.startswith("<-"))
        qemu, ours = qemu[:end], ours[:end]
    for at, (theirs, own) in enumerate(zip_longest(qemu, ours, fillvalue="")):
        if theirs != own:
            return [*qemu[max(0, at - _BEFORE) : at], *_apart(theirs, own)]
    return []


def _apart(theirs: str, own: str) -> list[str]:
    """Return where two lines differ, with what is around that."""
    pairs = zip(theirs, own, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    start, end = max(0, same - _AROUND), same + _AROUND
    return [f"-{theirs[start:end]}", f"+{own[start:end]}"]


def differences(difference_of: Callable[[int], list[str]], seeds: Iterable[int]) -> str:
    """Return how these seeds differ, "" if none does."""
    lines: list[str] = []
    for seed in seeds:
        found = difference_of(seed)
        lines += [f"=== {seed}", *found] if found else []
    return "\n".join(lines)


def main(difference_of: Callable[..., list[str]]) -> int:
    """Run the command line FIRST LAST [STEPS]; the status is 1 when a seed differs.

    Args:
        difference_of: Runs one seed, of so many steps if that is given.
    """
    first, last, *more = (int(word) for word in sys.argv[1:])
    failed = 0
    for seed in range(first, last):
        lines = difference_of(seed, *more)
        failed += bool(lines)
        for line in [f"=== {seed}", *lines] if lines else []:
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{last - first} seeds, {failed} differ\n")
    return 1 if failed else 0
