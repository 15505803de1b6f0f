"""One run of a storage daemon: everything a scenario can do to it.

Each step is written to the transcript. The daemon starts with the first step that needs it,
with a monitor on a unix socket, and is told to quit when the scenario ends.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.oracle.nbd import NbdClient
from tests.oracle.transcript import Transcript

_PATIENCE_S = 10.0


class UnsettledError(Exception):
    """QEMU's monitor opened twice, a race at its start: the run says nothing.

    Its set-up in the I/O thread and the main thread's accept() each announce the client; the
    second time greets again and forgets what has been said.
    """


class StoppedError(Exception):
    """The scenario cannot go on: no answer, or the daemon is gone."""


class Session:
    """A daemon, its monitor and its files.

    Args:
        program: Path of the daemon's executable.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: Monitor | None = None
        self._others: list[subprocess.Popen[bytes]] = []
        self._memory: int | None = None
        self._started = False
        #: Names of the events since the last command was sent.
        self._events: list[str] = []
        self._clients: list[NbdClient | socket.socket] = []
        # The name's length is always the same: some texts depend on it.
        self.dir = Path(tempfile.mkdtemp(prefix="oracle-"))
        self.transcript = Transcript({str(self.dir): "TMP"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for client in self._clients:
            client.close()
        if self._monitor is not None:
            self._monitor.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for other in self._others:
            other.kill()
            other.wait()
        if self._memory is not None:
            os.close(self._memory)
        shutil.rmtree(self.dir)

    # -- files ------------------------------------------------------------------------------

    def path(self, name: str) -> str:
        """Return the path of a file in the scenario's directory."""
        return str(self.dir / name)

    def file(self, name: str, size: int = 1 << 20, *fills: tuple[int, int, int]) -> str:
        """Make a sparse file and fill (byte, offset, length) ranges; return its path."""
        with (self.dir / name).open("wb") as file:
            file.truncate(size)
            for byte, offset, length in fills:
                file.seek(offset)
                file.write(bytes([byte]) * length)
            file.flush()
            # Allocation is reported by query-named-block-nodes and block status.
            os.fsync(file.fileno())
        return self.path(name)

    def memory_file(self, size: int) -> str:
        """Make a file in memory whose writes ``seal`` lets fail; return its path."""
        self._memory = os.memfd_create("oracle", os.MFD_ALLOW_SEALING)
        os.truncate(self._memory, size)
        path = f"/proc/{os.getpid()}/fd/{self._memory}"
        self.transcript.masks[path] = "MEMORY"
        return path

    def seal(self) -> None:
        """From now on every write to the memory file fails with EPERM."""
        assert self._memory is not None
        fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)

    def content(self, name: str) -> None:
        """Write down a file's size and content, as runs of equal bytes."""
        data = (self.dir / name).read_bytes()
        runs: list[tuple[int, int]] = []
        for at in range(0, len(data), 512):
            block = data[at : at + 512]
            if block.count(block[0]) != len(block):
                for byte in block:
                    _add_run(runs, byte, 1)
            else:
                _add_run(runs, block[0], len(block))
        text = " ".join(f"{byte:02x}*{length}" for byte, length in runs)
        self.transcript.add(f"# {name}: {len(data)} bytes: {text}")

    # -- the daemon -------------------------------------------------------------------------

    def start(self, *args: str, monitor: bool = True) -> None:
        """Start the daemon with the given options; connect to its monitor if it has one."""
        self._started = True
        socket_path = self.path("qmp.sock")
        own = ("--chardev", f"socket,id=m,path={socket_path},server=on,wait=off")
        ready = "started.pid"
        own = (*own, "--monitor", "chardev=m", "--pidfile", ready) if monitor else ()
        self.transcript.add(" ".join(["$ PROGRAM", *args]))
        self.transcript.masks[f"{os.path.basename(self._program)}:"] = "PROGRAM:"
        with (self.dir / "stderr").open("wb") as stderr, (self.dir / "stdout").open("wb") as out:
            self._process = subprocess.Popen(
                [self._program, *args, *own],
                cwd=self.dir,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=stderr,
            )
        # The pidfile comes last, when the monitor has been set up.
        if monitor and self._wait_for(self.path(ready)):
            self._monitor = Monitor(socket_path)
            self._receive("")

    def _wait_for(self, path: str) -> bool:
        """Wait until something listens; return False when the daemon ended instead."""
        deadline = time.monotonic() + _PATIENCE_S
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

    def wait_for_file(self, name: str) -> None:
        """Wait until the daemon has made a file: its socket, its pidfile."""
        self._wait_for(self.path(name))

    def pidfile(self, name: str) -> None:
        """Write down whether a pidfile names the daemon."""
        assert self._process is not None
        deadline = time.monotonic() + _PATIENCE_S
        text = ""
        while not text.endswith("\n") and time.monotonic() < deadline:
            text = (self.dir / name).read_text()
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
            status = self._process.wait(_PATIENCE_S)
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
        if self._process is None:
            return
        if self._monitor is None or not self._monitor.negotiated:
            self.kill()
            return
        self._monitor.send(b'{"execute": "quit"}')
        self._drain_monitor("quit")
        self.exited()

    # -- QMP --------------------------------------------------------------------------------

    def connect(self) -> "Session":
        """Start the daemon, if need be, up to its greeting; send nothing."""
        if self._monitor is None:
            if self._started:
                raise StoppedError("no monitor")
            self.start()
        return self

    def qmp(self, command: str, /, **arguments: Any) -> Any:
        """Execute a command and return what it returned, None for an error.

        ``_`` in the arguments' names stands for ``-``.
        """
        self._negotiate()
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = {
                name.replace("_", "-"): value for name, value in arguments.items()
            }
        return self.raw(json.dumps(message), command=command)

    def raw(self, *pieces: str | bytes, replies: int = 1, command: str = "") -> Any:
        """Send bytes, in pieces, and take the replies; return what the last one returned."""
        if self._monitor is None:
            self.connect()
        assert self._monitor is not None
        for piece in pieces:
            self._monitor.send(piece.encode() if isinstance(piece, str) else piece)
        sent = self.transcript.mask(
            " ".join(p if isinstance(p, str) else ascii(p) for p in pieces)
        )
        result = None
        for count in range(replies):
            result = self._receive(command, sent if count == 0 else "")
        self._monitor.negotiated |= "qmp_capabilities" in sent and result is not None
        return result

    def until_sync(self, data: str | bytes) -> None:
        """Send any bytes, then a sound command; take all replies up to that one's.

        Bytes that leave the parser inside a value must end with 0xff, which resets it.
        """
        self._negotiate()
        assert self._monitor is not None
        piece = data.encode() if isinstance(data, str) else data
        self._monitor.send(piece + b'\n{"execute": "query-version", "id": "sync"}\n')
        shown = ascii(piece) if len(piece) < 300 else f"{piece[:60]!r}... {len(piece)} bytes"
        self.transcript.add(f"-> {shown}")
        line = ""
        while '"id": "sync"' not in line:
            line = self._monitor.receive()
            self.transcript.add(f"<- {line}")

    def event(self, name: str) -> None:
        """Wait for an event, which may have come with the last command already."""
        assert self._monitor is not None
        while name not in self._events:
            line = self._monitor.receive()
            self.transcript.add(f"<- {line}", is_event=True)
            message = json.loads(line)
            if "event" not in message:
                raise StoppedError(f"a reply came where event {name} was due")
            self._events.append(message["event"])

    def pretty(self, *commands: str) -> None:
        """Execute commands on a monitor of its own that answers on many lines."""
        path = self.path("pretty.sock")
        chardev = f"socket,id=p,path={path},server=on,wait=off"
        self.start("--chardev", chardev, "--monitor", "chardev=p,pretty=on", monitor=False)
        if not self._wait_for(path):
            return
        monitor = Monitor(path)
        self.transcript.add(f"<- {monitor.receive_value()}")
        for command in commands:
            monitor.send(command.encode())
            self.transcript.add(f"-> {command}\n<- {monitor.receive_value()}")
        monitor.close()

    def closed_by_daemon(self) -> None:
        """Expect the monitor's connection to be closed."""
        self._drain_monitor("")

    def _negotiate(self) -> None:
        self.connect()
        assert self._monitor is not None
        if not self._monitor.negotiated:
            try:
                self.raw('{"execute": "qmp_capabilities"}')
            except StoppedError as error:
                raise UnsettledError(str(error)) from error

    def _receive(self, command: str, sent: str = "") -> Any:
        """Take everything up to the next reply; the request is noted beside the reply."""
        assert self._monitor is not None
        self._events.clear()
        while True:
            line = self._monitor.receive()
            try:
                message = json.loads(line)
            except ValueError:
                raise StoppedError(f"not JSON: {line}") from None
            if "QMP" in message and command + sent:
                raise UnsettledError("greeted twice")
            if "event" not in message:
                break
            self._events.append(message["event"])
            self.transcript.add(f"<- {line}", is_event=True)
        shown = f"-> {sent}\n<- {line}" if sent else f"<- {line}"
        self.transcript.add(shown, command=command)
        return message.get("return")

    def _drain_monitor(self, command: str) -> None:
        """Take everything that still comes until the connection ends."""
        monitor, self._monitor = self._monitor, None
        if monitor is None:
            return
        while line := monitor.receive(end_is_error=False):
            is_event = '"event": ' in line
            shown = f"-> {command}\n<- {line}" if command and not is_event else f"<- {line}"
            self.transcript.add(shown, command="" if is_event else command, is_event=is_event)
        monitor.close()

    # -- NBD and tools ----------------------------------------------------------------------

    def nbd_server(self, **more: Any) -> None:
        """Start the NBD server on the scenario's unix socket."""
        address = {"type": "unix", "data": {"path": self.path("nbd.sock")}}
        self.qmp("nbd-server-start", addr=address, **more)

    def uri(self, export: str) -> str:
        """Return an export's URI."""
        return f"nbd+unix:///{export}?socket={self.path('nbd.sock')}"

    def nbd(self, export: str | None) -> NbdClient:
        """Connect an NBD client that stays; with an export's name, ready for requests."""
        client = NbdClient(self.path("nbd.sock"), self.transcript)
        self._clients.append(client)
        if export is not None:
            client.go(export)
        return client

    def hold_port(self) -> int:
        """Occupy a free TCP port of 127.0.0.1; it reads PORT in the transcript."""
        holder = socket.socket()
        self._clients.append(holder)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port: int = holder.getsockname()[1]
        self.transcript.masks[str(port)] = "PORT"
        return port

    def free_port(self) -> int:
        """Return a TCP port that is free now; it reads PORT in the transcript."""
        port = self.hold_port()
        self._clients.pop().close()
        return port

    def tool(self, *command: str) -> str:
        """Run a program beside the daemon; write down its output and exit status."""
        done = subprocess.run(
            command,
            cwd=self.dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE_S * 2,
            check=False,
        )
        text = done.stdout.decode(errors="replace")
        self.transcript.add("$ " + " ".join(command))
        for line in text.splitlines():
            self.transcript.add(f"  {line}")
        if done.returncode != 0:
            self.transcript.add(f"  exit status {done.returncode}")
        return text

    def hold_image(self, path: str) -> None:
        """Let another process use an image that it wants nobody else to write to."""
        ready = self.path("holder.pid")
        command = [
            "qemu-storage-daemon",
            *("--blockdev", f"file,node-name=disk,filename={path}"),
            *("--blockdev", "null-co,node-name=temp,size=1048576,read-zeroes=on"),
            *("--blockdev", "copy-before-write,node-name=cbw,file=disk,target=temp"),
            *("--nbd-server", f"addr.type=unix,addr.path={self.path('holder.sock')}"),
            *("--export", "nbd,id=e,node-name=cbw,writable=on"),
            *("--pidfile", ready),
        ]
        holder = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self._others.append(holder)
        deadline = time.monotonic() + _PATIENCE_S
        while not os.path.exists(ready) and time.monotonic() < deadline:
            time.sleep(0.002)

    def io(self, export: str, *commands: str, read_only: bool = False) -> None:
        """Run qemu-io's commands on an export."""
        flags = ["-r"] if read_only else []
        words = [word for command in commands for word in ("-c", command)]
        self.tool("qemu-io", *flags, "-f", "raw", "-d", "unmap", *words, self.uri(export))

    def map(self, export: str) -> None:
        """Write down an export's block status as qemu-img sees it."""
        self.tool("qemu-img", "map", "--output=json", "-f", "raw", self.uri(export))

    def nbdinfo(self, export: str, *options: str) -> None:
        """Run nbdinfo on an export."""
        self.tool("nbdinfo", *options, self.uri(export))


class Monitor:
    """A QMP client that passes lines through as they are."""

    def __init__(self, path: str) -> None:
        self.negotiated = False
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_PATIENCE_S)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._socket.connect(path)
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise StoppedError("nobody listens on the monitor's socket") from None
        self._buffer = b""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def receive(self, *, end_is_error: bool = True) -> str:
        """Return the next line without its CR LF; empty at the end of the connection."""
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise StoppedError(f"no answer within {_PATIENCE_S:.0f} s") from None
            except OSError as error:
                # QEMU leaves bytes behind "quit" unread, which resets the connection.
                if error.errno != errno.ECONNRESET:
                    raise
                data = b""
            if not data:
                if end_is_error or self._buffer:
                    raise StoppedError(f"the connection ended; left over: {self._buffer!r}")
                return ""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        if not line.endswith(b"\r"):
            return line.decode() + " (no CR)"
        return line[:-1].decode()

    def receive_value(self) -> str:
        """Return the next lines that make up one JSON value."""
        text = ""
        while True:
            text += self.receive() + "\n"
            try:
                json.loads(text)
            except ValueError:
                continue
            return text.rstrip("\n")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _add_run(runs: list[tuple[int, int]], byte: int, length: int) -> None:
    if runs and runs[-1][0] == byte:
        runs[-1] = (byte, runs[-1][1] + length)
    else:
        runs.append((byte, length))
