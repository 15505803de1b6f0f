"""Lines that live on a terminal, and plain lines where there is none.

rich is imported only for a terminal. Everything goes to one stream, stderr by default, so
that stdout stays for results.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TextIO, cast

from qmpfleece.cli.aside import Aside
from qmpfleece.cli.words import size_text, time_text
from qmpfleece.nbdclient.copy import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

#: How often a terminal is refreshed, in seconds.
REFRESH_S: Final = 0.1
#: How often a plain line is written, in seconds.
PLAIN_S: Final = 5.0


class Screen:
    """Where people look.

    Args:
        stream: What is written to.
        quiet: Write nothing.
    """

    def __init__(self, stream: TextIO | Aside | None = None, *, quiet: bool = False) -> None:
        self.stream: Final = stream or sys.stderr
        self.quiet: Final = quiet
        self.live: Final = not quiet and self.stream.isatty()
        self._console: Console | None = None

    def console(self) -> "Console":
        """Return the terminal; only for live screens."""
        from rich.console import Console

        if self._console is None:
            self._console = Console(file=cast("TextIO", self.stream), highlight=False)
        return self._console

    def say(self, text: str = "") -> None:
        """Write a line that stays, above live ones."""
        if self.quiet:
            return
        if self.live:
            self.console().print(text, markup=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    @contextlib.contextmanager
    def copying(self, what: str, progress: Progress) -> "Iterator[Meter]":
        """Show how a copy goes on; call ``tick`` on what is given from time to time."""
        if not self.live:
            yield PlainMeter(self, what, progress)
            return
        meter = BarMeter(self, what, progress)
        with meter.bar:
            yield meter

    @contextlib.contextmanager
    def status(self) -> "Iterator[StatusLine]":
        """Show one line that changes."""
        if not self.live:
            yield StatusLine(self, None)
            return
        from rich.live import Live

        with Live(console=self.console(), auto_refresh=False, transient=True) as live:
            yield StatusLine(self, live)


class Meter:
    """Shows a copy's progress."""

    interval_s: float = REFRESH_S

    def tick(self) -> None:
        """Bring what is shown up to date."""
        raise NotImplementedError


class PlainMeter(Meter):
    """A line from time to time."""

    interval_s = PLAIN_S

    def __init__(self, screen: Screen, what: str, progress: Progress) -> None:
        self._screen = screen
        self._what = what
        self._progress = progress
        self._started = time.monotonic()

    def tick(self) -> None:
        """Bring what is shown up to date."""
        now = self._progress
        spent = time.monotonic() - self._started
        if not now.settled or not spent:
            return
        left = (now.size - now.settled) * spent / now.settled
        self._screen.say(
            f"{self._what}: {100 * now.settled / now.size:.0f} % of {size_text(now.size)}, "
            f"{size_text(now.copied / spent)}/s, {time_text(left)} left"
        )


class BarMeter(Meter):
    """A bar with rate and time left."""

    def __init__(self, screen: Screen, what: str, progress: Progress) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        self._progress = progress
        self.bar: Bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[rate]}/s", markup=False),
            TimeRemainingColumn(compact=True),
            console=screen.console(),
            auto_refresh=False,
        )
        self._started = time.monotonic()
        self._task: TaskID = self.bar.add_task(what, total=None, rate=size_text(0))

    def tick(self) -> None:
        """Bring what is shown up to date."""
        now = self._progress
        spent = time.monotonic() - self._started
        rate = size_text(now.copied / spent if spent else 0)
        self.bar.update(self._task, total=now.size or None, completed=now.settled, rate=rate)
        self.bar.refresh()


class StatusLine:
    """One line: live on a terminal, else written when it changes, but not too often."""

    def __init__(self, screen: Screen, live: "Live | None") -> None:
        self._screen = screen
        self._live = live
        self._said = ""
        self._when = -PLAIN_S
        self.interval_s: Final = 0.25 if live is not None else 1.0

    def show(self, text: str, spent: str = "") -> None:
        """Show ``text`` instead of what was shown before.

        Args:
            text: What there is to know.
            spent: The time gone by; it alone is no reason for another plain line.
        """
        stream = self._screen.stream
        if isinstance(stream, Aside) and stream.behind:
            return  # nor would this be seen; by then it is out of date
        whole = f"{text}, {spent}" if spent else text
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(whole, style="cyan"), refresh=True)
        elif text != self._said and time.monotonic() - self._when >= PLAIN_S:
            self._screen.say(whole)
            self._when = time.monotonic()
            self._said = text
