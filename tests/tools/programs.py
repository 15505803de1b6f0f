"""The installed programs, run as a user runs them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from tests.tools.dial import dial

#: Where the programs are that are tested: those of the checkout, or the compiled ones.
BIN = Path(os.environ.get("QMPFLEECE_BIN") or Path(sys.executable).parent)
QSD = BIN / "qmpfleece-qsd"
QMPFLEECE = BIN / "qmpfleece"
PATIENCE_S = 30.0


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip a test where a tool is not installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(tools)}")


def run(
    program: Path | str,
    *arguments: object,
    folder: Path | None = None,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [str(program), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=folder,
        env=os.environ | dict(environment or {}),
    )


def converse(
    program: Sequence[str], requests: Iterable[Mapping[str, Any]], folder: Path | None = None
) -> list[tuple[dict[str, Any], str]]:
    """Say requests one at a time to a program of QEMU whose monitor is its stdio.

    It is told to quit once it has answered all: what its monitor has not written by then is lost.

    Returns:
        The reply to each, and what was printed before it.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        program, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, cwd=folder
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers: list[tuple[dict[str, Any], str]] = []
        try:
            for request in requests:
                process.stdin.write(f"{json.dumps(request)}\n")
                process.stdin.flush()
                answers.append(_next_answer(process.stdout))
            process.communicate('{"execute": "quit"}', timeout=PATIENCE_S)
        except BaseException:
            process.kill()  # the end of its input does not end it
            raise
    assert process.returncode == 0
    return answers


def _next_answer(rows: Iterable[str]) -> tuple[dict[str, Any], str]:
    """Return the next reply, and what is printed before it."""
    printed = ""
    for row in rows:
        if not row.startswith("{"):
            printed += row
        elif (reply := json.loads(row)).keys() & {"return", "error"}:
            return reply, printed
    raise AssertionError(f"it has ended: {printed}")


def replies_of_qemu(
    program: Sequence[str], *commands: str, folder: Path | None = None
) -> list[dict[str, Any]]:
    """Run commands, which succeed, in such a program; return their replies."""
    requests = [{"execute": command} for command in ("qmp_capabilities", *commands)]
    replies = [reply for reply, _ in converse(program, requests, folder)]
    assert not [reply for reply in replies if "error" in reply]
    return replies[1:]


class Running:
    """A program that runs until it is told to end."""

    def __init__(self, *command: object, folder: Path) -> None:
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )

    def wait_for(self, path: Path, *, filled: bool = False) -> None:
        """Return once ``path`` exists, ``filled`` or not, or fail with what the program said."""
        for _ in range(int(PATIENCE_S / 0.005)):
            if path.exists() and (not filled or path.stat().st_size):
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.005)
                break
        raise AssertionError(f"no {path}: {self.end(signal.SIGKILL)}")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal; return the exit status, stdout and stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output, errors


@contextlib.contextmanager
def running(*command: object, folder: Path) -> Iterator[Running]:
    """Run a program for the length of a block; it is killed if it still runs then."""
    program = Running(*command, folder=folder)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate()


class Qmp:
    """A plain QMP client, capabilities negotiated.

    Attributes:
        events: What has come since the last ``wait_for``, or since the beginning.
    """

    def __init__(self, path: Path) -> None:
        self._socket = dial(str(path))
        self._socket.settimeout(PATIENCE_S)
        self._lines = self._socket.makefile("r")
        self.events: list[dict[str, Any]] = []
        self.greeting = json.loads(self._lines.readline())
        assert self.execute("qmp_capabilities") == {}

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its result; events are kept."""
        reply = self._ask(command, arguments)
        assert "return" in reply, reply
        return reply["return"]

    def refuse(self, command: str, **arguments: Any) -> str:
        """Run a command that must fail and return why."""
        reply = self._ask(command, arguments)
        assert "error" in reply, reply
        return str(reply["error"]["desc"])

    def wait_for(self, name: str) -> dict[str, Any]:
        """Wait for an event, which may have come already; return its data."""
        while not (found := [event for event in self.events if event["event"] == name]):
            self.events.append(json.loads(self._lines.readline()))
        self.events.clear()
        return dict(found[0]["data"])

    def wait_for_end(self) -> None:
        """Wait until the program hangs up."""
        while self._lines.readline():
            pass

    def send(self, command: str, arguments: dict[str, Any]) -> None:
        """Send a command, and do not wait for its reply."""
        request = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode())

    def _ask(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.send(command, arguments)
        while "event" in (reply := json.loads(self._lines.readline())):
            self.events.append(reply)
        return dict(reply)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lines.close()
        self._socket.close()
