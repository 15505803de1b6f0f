"""What a terminal shows, and what stands in for it where there is none."""

import contextlib
import io
import os
import pty
import subprocess

import pytest

from qmpfleece.base.units import MIB
from qmpfleece.cli import display
from qmpfleece.cli.aside import Aside
from qmpfleece.cli.display import Screen
from qmpfleece.nbdclient.copy import Progress
from tests.tools.outputs import full_pipe
from tests.tools.programs import QMPFLEECE


@pytest.fixture
def terminal():
    """A terminal: what a program is given, and a function that tells what it shows."""
    ours, theirs = pty.openpty()

    def shown():
        text = b""
        with contextlib.suppress(OSError):  # EIO: nobody has it open any more
            while piece := os.read(ours, 65536):
                text += piece
        return text.decode()

    yield theirs, shown
    os.close(ours)


def test_a_terminal_shows_a_bar_and_the_guest_s_figures(terminal, tmp_path):
    theirs, shown = terminal
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "TMPDIR": str(tmp_path)}
    program = subprocess.Popen(
        [QMPFLEECE, "demo"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    try:
        text = shown()
        assert program.wait(30) == 0
    finally:
        program.kill()
        program.wait()
    assert "100%" in text
    assert "256.0/256.0 MiB" in text
    assert "What was pulled is the disk as it was" in text


def test_plain_lines_tell_share_rate_and_time_left():
    stream = io.StringIO()
    screen = Screen(stream)
    progress = Progress(size=8 * MIB)
    with screen.copying("disk", progress) as meter:
        meter.tick()
        progress.settled, progress.copied = 2 * MIB, MIB
        meter.tick()
    line = stream.getvalue()
    assert line.startswith("disk: 25 % of 8.0 MiB, ")
    assert line.endswith(" left\n")


def test_a_plain_status_line_is_written_when_it_changes_but_not_often():
    stream = io.StringIO()
    with Screen(stream).status() as line:
        for number in range(100):
            line.show(f"{number} clusters")
    assert stream.getvalue() == "0 clusters\n"


def test_time_alone_writes_no_plain_status_line(monkeypatch):
    monkeypatch.setattr(display, "PLAIN_S", 0.0)
    stream = io.StringIO()
    with Screen(stream).status() as line:
        line.show("1 client", "1 s")
        line.show("1 client", "2 s")
        line.show("2 clients", "3 s")
    assert stream.getvalue() == "1 client, 1 s\n2 clients, 3 s\n"


def test_a_plain_status_line_catches_up_with_what_came_too_often(monkeypatch):
    stream = io.StringIO()
    with Screen(stream).status() as line:
        line.show("0 clients")
        line.show("1 client")
        monkeypatch.setattr(display, "PLAIN_S", 0.0)
        line.show("1 client")
    assert stream.getvalue() == "0 clients\n1 client\n"


def test_what_nobody_takes_does_not_pile_up(monkeypatch):
    monkeypatch.setattr(display, "PLAIN_S", 0.0)
    with full_pipe() as (output, go_on), open(output, "w") as stream:
        with Aside(stream) as outlet, Screen(outlet).status() as line:
            for number in range(100):
                line.show(f"{number} clusters")
            assert not go_on().strip(b"\0")
        assert go_on() == b"0 clusters\n"


def test_a_quiet_screen_says_nothing():
    stream = io.StringIO()
    screen = Screen(stream, quiet=True)
    screen.say("hello")
    assert stream.getvalue() == ""
