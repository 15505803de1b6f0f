"""An image opened through the graph, with a guest; and the tools that check what it wrote."""

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qmpfleece.base.workers import Workers
from qmpfleece.block import pipeline
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import validate_blockdev
from qmpfleece.qapi.bus import EventBus
from qmpfleece.qapi.events import Event
from tests.tools.hostfile import buffer


def run(*command: object, may_fail: bool = False) -> str:
    """Run a program; its output, when it succeeds or may fail.

    Without the program the test is skipped.
    """
    words = [str(word) for word in command]
    if shutil.which(words[0]) is None:
        pytest.skip(f"needs {words[0]}")
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert may_fail or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def qemu_img(*arguments: object) -> str:
    return run("qemu-img", *arguments)


def qemu_io(image: object, *commands: str, options: str = "", may_fail: bool = False) -> str:
    words = [word for command in commands for word in ("-c", command)]
    where = ("--image-opts", options) if options else ("-f", "qcow2", image)
    return run("qemu-io", *words, *where, may_fail=may_fail)


def check(image: Path) -> None:
    """Fail unless the image is without errors and leaks."""
    run("qemu-img", "check", "-q", "-f", "qcow2", image)


def content(image: Path, scratch: Path, options: str = "") -> bytes:
    """What qemu-img reads."""
    flat = scratch / "flat.raw"
    source = ["--image-opts", options] if options else ["-f", "qcow2", image]
    qemu_img("convert", "-O", "raw", *source, flat)
    return flat.read_bytes()


class Disk:
    """A node with a backend; everything at once for tests."""

    def __init__(self) -> None:
        self.workers = Workers()
        self.bus = EventBus()
        self.events: list[Event] = []
        self.bus.subscribe(lambda event, _: self.events.append(event))
        self.graph = Graph(self.workers, self.bus)

    async def open(self, image: Path, **options: Any) -> None:
        writable = not options.get("read_only", False)
        wire = {"driver": "qcow2", "node-name": "disk", "discard": "unmap"}
        wire |= {key.replace("_", "-"): value for key, value in options.items()}
        wire.setdefault("file", {"driver": "file", "filename": str(image)})
        self.node = await self.graph.add(validate_blockdev(wire))
        perm = Perm.CONSISTENT_READ | (Perm.WRITE | Perm.RESIZE if writable else Perm.NONE)
        self.guest = Backend(self.graph, perm=perm)
        self.guest.attach(self.node)

    @property
    def driver(self) -> Any:
        return self.node.driver

    async def read(self, offset: int = 0, length: int = -1) -> bytes:
        length = self.node.length - offset if length < 0 else length
        buf = bytearray(b"?" * length)
        await self.guest.pread(offset, memoryview(buf))
        return bytes(buf)

    async def write(self, offset: int, data: bytes) -> None:
        await self.guest.pwrite(offset, buffer(data))

    async def resize(self, length: int) -> None:
        (edge,) = self.node.parents
        await pipeline.truncate(edge, length)

    async def close(self) -> None:
        await self.guest.detach()
        await self.graph.close()

    async def reopen(self, image: Path, **options: Any) -> None:
        await self.close()
        await self.open(image, **options)


@asynccontextmanager
async def opened(image: Path, **options: Any) -> AsyncIterator[Disk]:
    """An open image, closed at the end."""
    disk = Disk()
    try:
        await disk.open(image, **options)
        try:
            yield disk
        finally:
            await disk.close()
    finally:
        await disk.graph.close()
        disk.workers.close()
