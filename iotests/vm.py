# SPDX-License-Identifier: GPL-2.0-or-later
"""The program under test as a process, driven through one QMP monitor."""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

from iotests.output import SCRATCH, log, log_command, say, scratch

#: Seconds that any single answer or event may take.
PATIENCE: Final = 30.0
#: Only the devices asked for, and a CPU that never runs: no KVM, and no guest that would write.
QUIET: Final = ("-nodefaults", "-display", "none", "-S")

Message = dict[str, Any]


class VMError(Exception):
    """The program under test ended, hung, or refused what had to work."""


class VM:
    """A context manager: entering starts the program, leaving makes it quit.

    Commands are answered in order; events that arrive meanwhile are kept until they are
    asked for, so that what is printed does not depend on timing.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self._events: list[Message] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # The program connects to us: there is no moment at which we would have to poll.
            path = scratch("qmp.sock")
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(path)
            stack.callback(Path(path).unlink)
            listener.listen(1)
            self._process = self._start(stack, path)
            stack.callback(self._end)
            self._monitor = stack.enter_context(self._accept(listener))
            self._monitor.settimeout(PATIENCE)
            self._lines = stack.enter_context(self._monitor.makefile("rb"))
            if "QMP" not in self._receive():
                raise VMError("the monitor did not greet")
            self.command("qmp_capabilities")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None:
                self.command("quit")
                if status := self._process.wait(PATIENCE):
                    raise VMError(f"the program ended with status {status}")

    def _start(self, stack: contextlib.ExitStack, monitor: str) -> subprocess.Popen[bytes]:
        # The text of qemu-io commands goes to the program's stdout: no part of a test's output.
        output = stack.enter_context((SCRATCH / "program.log").open("ab"))
        chardev = f"socket,id=mon,path={monitor}"
        monitor_options = ("-chardev", chardev, "-mon", "chardev=mon,mode=control")
        return subprocess.Popen(
            [os.environ["IOTESTS_PROGRAM"], *QUIET, *monitor_options, *self._options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(0.1)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                return listener.accept()[0]
            if self._process.poll() is not None:
                raise VMError(f"the program ended with status {self._process.returncode}")
        raise VMError("the program does not connect to its monitor")

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _receive(self) -> Message:
        try:
            line = self._lines.readline()
        except TimeoutError:
            raise VMError(f"nothing came from the monitor for {PATIENCE:.0f} s") from None
        if not line:
            raise VMError("the program closed its monitor")
        message: Message = json.loads(line)
        return message

    def qmp(self, command: str, **arguments: Any) -> Message:
        """Run a command and return its whole reply; `_` in an argument's name stands for `-`."""
        request = _request(command, arguments)
        self._monitor.sendall(json.dumps(request).encode() + b"\n")
        while "event" in (message := self._receive()):
            self._events.append(message)
        return message

    def command(self, command: str, **arguments: Any) -> Any:
        """Run a command that must succeed and return what it returns.

        Raises:
            VMError: It was refused.
        """
        reply = self.qmp(command, **arguments)
        if "return" not in reply:
            raise VMError(f"{command}: {reply['error']['desc']}")
        return reply["return"]

    def qmp_log(self, command: str, **arguments: Any) -> Message:
        """Print a command, run it, and print its reply."""
        log_command(_request(command, arguments))
        reply = self.qmp(command, **arguments)
        log(reply)
        return reply

    def command_log(self, command: str, **arguments: Any) -> None:
        """Print a command and its reply; what follows needs it to have succeeded.

        Raises:
            VMError: It was refused.
        """
        reply = self.qmp_log(command, **arguments)
        if "return" not in reply:
            raise VMError(f"{command}: {reply['error']['desc']}")

    def qemu_io(self, target: str, command: str) -> Message:
        """Run a qemu-io command inside the program, as its guest or its monitor would.

        Args:
            target: A node's name, or `-d DEVICE` for what a device is attached to.
            command: As in `write -P0x55 0 64k`.
        """
        line = f'qemu-io {target} "{command}"'
        return self.qmp("human-monitor-command", command_line=line)

    def events(self) -> Iterator[Message]:
        """Give every event not yet seen, then wait for more.

        Raises:
            VMError: None came within `PATIENCE`.
        """
        while True:
            yield self._events.pop(0) if self._events else self._receive()

    def wait_for(self, name: str) -> Message:
        """Return the next event of this name; those before it are dropped."""
        return next(event for event in self.events() if event["event"] == name)

    def run_job(
        self,
        job: str,
        *,
        auto_finalize: bool = True,
        auto_dismiss: bool = False,
        before_finalize: Callable[[], None] | None = None,
        cancel: bool = False,
    ) -> None:
        """Follow a job to its end, and print its events other than changes of its status.

        Args:
            job: Id of a job that was just started.
            auto_finalize: As the job was started; otherwise it is finalized here.
            auto_dismiss: As the job was started; otherwise it is dismissed here.
            before_finalize: Called once the job is pending.
            cancel: Cancel the pending job in place of finalizing it.
        """
        for event in self.events():
            data = event["data"]
            if job not in {data.get("id"), data.get("device")}:
                continue
            if event["event"] != "JOB_STATUS_CHANGE":
                log(event)
                continue
            match data["status"]:
                case "aborting":
                    self._log_failure(job)
                case "pending" if not auto_finalize:
                    if before_finalize:
                        before_finalize()
                    self.command_log("job-cancel" if cancel else "job-finalize", id=job)
                case "concluded" if not auto_dismiss:
                    self.command_log("job-dismiss", id=job)
                case "null":
                    return

    def _log_failure(self, job: str) -> None:
        """Print why a job failed; a job that dismisses itself may be gone already."""
        for info in self.command("query-jobs"):
            if info["id"] == job and "error" in info:
                say(f"Job failed: {info['error']}")

    def bitmaps(self) -> dict[str, list[Message]]:
        """Return the dirty bitmaps of every node that has any (query-named-block-nodes)."""
        nodes = self.command("query-named-block-nodes", flat=True)
        return {
            node["node-name"]: node["dirty-bitmaps"] for node in nodes if node.get("dirty-bitmaps")
        }


def _request(command: str, arguments: Message) -> Message:
    request: Message = {"execute": command}
    if arguments:
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        request["arguments"] = named
    return request
