"""One run of a storage daemon: everything a scenario can do to it.

Each step is written to the transcript. The daemon starts with the first step that needs it,
with a monitor on a unix socket, and is told to quit when the scenario ends.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import time
from types import TracebackType

from tests.oracle.conversation import Conversation
from tests.oracle.monitor import PATIENCE_S, Monitor, StoppedError
from tests.tools.dial import dial


class Session(Conversation):
    """A daemon and its monitor, in a workspace.

    Args:
        program: Path of the daemon's executable.
        machine: The options of every run, if it takes those of qemu-system.
    """

    def __init__(self, program: str, machine: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self._program = program
        self._machine = machine
        self._process: subprocess.Popen[bytes] | None = None
        #: The descriptor of a daemon in the background, which is no child of ours.
        self._adopted: int | None = None
        self._watcher: Monitor | None = None
        self._started = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for monitor in (self._monitor, self._watcher):
            if monitor is not None:
                monitor.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._adopted is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._adopted, signal.SIGKILL)
            os.close(self._adopted)
        super().__exit__(kind, error, traceback)

    # -- the daemon -------------------------------------------------------------------------

    def start(self, *args: str, monitor: bool = True, fds: tuple[int, ...] = ()) -> None:
        """Start the daemon with the given options; connect to its monitor if it has one.

        ``fds`` are descriptors that it inherits.
        """
        self._started = True
        socket_path = self.path("qmp.sock")
        own = ["--chardev", f"socket,id=m,path={socket_path},server=on,wait=off"]
        # The storage daemon's pidfile comes last, when the monitor has been set up.
        ready = "started.pid"
        if self._machine is None:
            own += ["--monitor", "chardev=m", "--pidfile", ready]
        else:
            own += ["-mon", "chardev=m,mode=control"]
            ready = "qmp.sock"
        own = [*(self._machine or ()), *(own if monitor else ())]
        self.transcript.add(" ".join(["$ PROGRAM", *args]))
        self.transcript.masks[f"{os.path.basename(self._program)}:"] = "PROGRAM:"
        with (self.dir / "stderr").open("wb") as stderr, (self.dir / "stdout").open("wb") as out:
            self._process = subprocess.Popen(
                [self._program, *args, *own],
                cwd=self.dir,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=stderr,
                pass_fds=fds,
            )
        if monitor and self._wait_for(self.path(ready)):
            self._monitor = Monitor(socket_path)
            self._receive("")

    def _wait_for(self, path: str) -> bool:
        """Wait until something listens; return False when the daemon ended instead."""
        deadline = time.monotonic() + PATIENCE_S
        assert self._process is not None
        while time.monotonic() < deadline:
            # Only looked at: connecting would make a client of its own.
            if os.path.exists(path):
                return True
            if self._process.poll() is not None:
                self.exited()
                return False
            time.sleep(0.002)
        raise StoppedError("a file that shows the start did not appear")

    def run_with_input(self, data: bytes, *args: str) -> None:
        """Run the daemon to its end, feeding its standard input; write down all output."""
        self.transcript.add(" ".join(["$ PROGRAM", *args]))
        self.transcript.masks[f"{os.path.basename(self._program)}:"] = "PROGRAM:"
        try:
            done = subprocess.run(
                [self._program, *args],
                cwd=self.dir,
                input=data,
                capture_output=True,
                timeout=PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StoppedError("the daemon did not end") from None
        for name, output in (("stdout", done.stdout), ("stderr", done.stderr)):
            for line in output.decode().splitlines():
                self.transcript.add(f"{name}: {line}")
        self.transcript.add(f"# exit status {done.returncode}")

    def hang_up(self) -> None:
        """Hang up the monitor until ``reconnect``."""
        assert self._monitor is not None
        self._monitor.close()

    def reconnect(self) -> None:
        """Hang up the monitor and connect again."""
        self.hang_up()
        self._monitor = Monitor(self.path("qmp.sock"))
        self._receive("")

    def wait_for_file(self, name: str) -> None:
        """Wait until the daemon has made a file: its socket, its pidfile."""
        self._wait_for(self.path(name))

    def pidfile(self, name: str) -> None:
        """Write down whether a pidfile names the daemon."""
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE_S
        while not (text := (self.dir / name).read_text()).endswith("\n"):
            if time.monotonic() > deadline:
                raise StoppedError(f"no answer: {name} says no more than {text!r}")
        same = text == f"{self._process.pid}\n"
        self.transcript.add(f"# {name} {'names' if same else 'does not name'} the daemon")

    def gone(self, name: str) -> None:
        """Write down whether a file has been removed."""
        there = (self.dir / name).exists()
        self.transcript.add(f"# {name} is {'there' if there else 'gone'}")

    def kill(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal and write down how the daemon ends."""
        assert self._process is not None
        self.transcript.add(f"# {number.name}")
        self._process.send_signal(number)
        self._drain_monitor("")
        self.exited()

    def exited(self) -> None:
        """Wait for the daemon's end; write down its exit status and what it printed."""
        assert self._process is not None
        try:
            status = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise StoppedError("the daemon did not end") from None
        self._process = None
        self.collect_stderr()
        self.transcript.add(f"# exit status {status}")

    def collect_stderr(self) -> None:
        """Write down what the daemon printed."""
        for stream in ("stdout", "stderr"):
            path = self.dir / stream
            text = path.read_text(errors="replace") if path.exists() else ""
            for line in text.splitlines():
                self.transcript.add(f"{stream}: {line}")

    def finish(self) -> None:
        """Tell the daemon to quit, if it still runs, and write down its end."""
        if self._adopted is not None and self._monitor is not None:
            self._monitor.send(b'{"execute": "quit"}')
            self._drain_monitor("quit")
            # Its files go after its monitors.
            if not select.select([self._adopted], [], [], PATIENCE_S)[0]:
                raise StoppedError("the daemon did not end")
        if self._process is None:
            return
        if self._monitor is None or not self._monitor.negotiated:
            self.kill()
            return
        self._monitor.send(b'{"execute": "quit"}')
        self._drain_monitor("quit")
        self.exited()

    # -- its monitors -----------------------------------------------------------------------

    def connect(self) -> "Session":
        """Start the daemon, if need be, up to its greeting; send nothing."""
        if self._monitor is None:
            if self._started:
                raise StoppedError("no monitor")
            self.start()
        return self

    def pretty(self, *commands: str) -> None:
        """Execute commands on a monitor of its own that answers on many lines."""
        path = self.path("pretty.sock")
        chardev = f"socket,id=p,path={path},server=on,wait=off"
        ready = ("--pidfile", self.path("started.pid"))
        self.start("--chardev", chardev, "--monitor", "chardev=p,pretty=on", *ready, monitor=False)
        if not self._wait_for(ready[1]):
            return
        monitor = Monitor(path)
        self.transcript.add(f"<- {monitor.receive_value()}")
        for command in commands:
            monitor.send(command.encode())
            self.transcript.add(f"-> {command}\n<- {monitor.receive_value()}")
        monitor.close()

    def tcp_client(self, port: int, *commands: str, host: str = "127.0.0.1") -> None:
        """Execute commands as a client of a monitor on a TCP port."""
        monitor = Monitor((host, port))
        self.transcript.add(f"<- {monitor.receive()}")
        for command in commands:
            monitor.send(command.encode())
            self.transcript.add(f"-> {command}\n<- {monitor.receive()}")
        monitor.close()

    def resetting_client(self, port: int) -> None:
        """Connect to a TCP port, and reset the connection at once."""
        with dial(("127.0.0.1", port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def watch(self, name: str) -> None:
        """Connect to a second monitor, on the scenario's socket ``name``."""
        self._watcher = Monitor(self.path(name))
        self.transcript.add(f"watcher <- {self._watcher.receive()}")

    def watcher_sends(self, command: str) -> None:
        """Execute a command on the second monitor; write down what came there until then."""
        assert self._watcher is not None
        self._watcher.send(command.encode())
        self.transcript.add(f"watcher -> {command}")
        line = '"event": '
        while '"event": ' in line:
            line = self._watcher.receive()
            self.transcript.add(f"watcher <- {line}")

    def dialled(self, *args: str) -> None:
        """Start the daemon with a chardev ``c`` that connects to us."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.settimeout(PATIENCE_S)
            listener.bind(self.path("listener.sock"))
            listener.listen()
            path = self.path("listener.sock")
            self.start("--chardev", f"socket,id=c,path={path}", *args, monitor=False)
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                raise StoppedError("the daemon did not connect") from None
        self._monitor = Monitor(connection)
        self._receive("")

    def adopt(self, pidfile: str) -> None:
        """Take a daemon that went to the background as the scenario's own."""
        try:
            self._adopted = os.pidfd_open(int((self.dir / pidfile).read_text()))
        except FileNotFoundError:
            raise StoppedError("the daemon went to the background without a pidfile") from None
        except ProcessLookupError:
            raise StoppedError("the daemon in the background has ended") from None
        self._started = True
        self._monitor = Monitor(self.path("qmp.sock"))
        self._receive("")
