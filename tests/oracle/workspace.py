"""What a scenario has besides the daemon: files, other programs, NBD clients."""

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.oracle.monitor import PATIENCE_S, StoppedError
from tests.oracle.nbd import NbdClient
from tests.oracle.transcript import Transcript


class Workspace:
    """A directory, and everything that must be gone when the scenario ends."""

    def __init__(self) -> None:
        self._clients: list[NbdClient | socket.socket] = []
        self._others: list[subprocess.Popen[bytes]] = []
        self._memory: int | None = None
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
        for other in self._others:
            other.kill()
            other.wait()
        if self._memory is not None:
            os.close(self._memory)
        shutil.rmtree(self.dir)

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

    def dead_socket(self, name: str) -> None:
        """Leave a socket behind that nobody listens on."""
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(self.path(name))

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

    def until(self, happened: Callable[[], object]) -> None:
        """Wait for what tells nobody; stop the scenario if it has not happened in the end."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            if time.monotonic() > deadline:
                raise StoppedError("what was waited for has not happened")
            time.sleep(0.002)

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
        self.transcript.add("$ " + " ".join(command))
        try:
            done = subprocess.run(
                command,
                cwd=self.dir,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as hung:
            output = (hung.stdout or b"").decode()
            raise StoppedError(f"{command[0]} does not end; it said: {output!r}") from None
        text = done.stdout.decode(errors="replace")
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
        deadline = time.monotonic() + PATIENCE_S
        while not os.path.exists(ready):
            if holder.poll() is not None or time.monotonic() > deadline:
                raise StoppedError("no answer: nobody holds the image")
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


def _add_run(runs: list[tuple[int, int]], byte: int, length: int) -> None:
    if runs and runs[-1][0] == byte:
        runs[-1] = (byte, runs[-1][1] + length)
    else:
        runs.append((byte, length))
