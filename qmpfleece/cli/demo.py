"""``qmpfleece demo``: all of it in half a minute, with proof.

A disk is fleeced; one client writes to it all the time, another one pulls the snapshot. The
pulled image must equal the disk as it was at the start, although the disk has changed.
"""

import argparse
import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from qmpfleece.base.units import KIB, MIB
from qmpfleece.cli import ending
from qmpfleece.cli.display import Screen
from qmpfleece.cli.ending import Failure
from qmpfleece.cli.fleecing import Fleece, Settings
from qmpfleece.cli.pull import pull_into
from qmpfleece.cli.words import size_text, time_text
from qmpfleece.nbdclient import uri as nbd_uri
from qmpfleece.nbdclient.client import NbdClient
from qmpfleece.nbdclient.copy import Plan
from qmpfleece.nbdproto import const

P = ParamSpec("P")
T = TypeVar("T")

PROGRAM: Final = "qmpfleece demo"

#: The sample disk: its size, and where it has data, in MiB.
SAMPLE_SIZE: Final = 256 * MIB
SAMPLE_DATA: Final = ((0, 64), (96, 160), (224, 256))

_FICLONE: Final = 0x40049409
_GUEST_SIZES: Final = (4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB)
#: The guest makes a pause after each write, as guests do; in seconds.
_GUEST_PAUSE_S: Final = 0.001
#: The guest writes at least so long, also when the pull is faster; in seconds.
_GUEST_TIME_S: Final = 2.0


@dataclass(slots=True)
class Written:
    """What the guest has written."""

    count: int = 0
    size: int = 0


def main(given: argparse.Namespace) -> int:
    """Run the verb and return the exit status."""
    screen = Screen(sys.stdout)
    own = Path(given.disk) if given.disk else None

    async def verb() -> int:
        with ending.catching_signals() as interrupted:
            with tempfile.TemporaryDirectory(prefix=".qmpfleece-demo-", dir=_place(own)) as place:
                folder = Path(place)
                demo = _Demo(folder, screen)
                await ending.unless_interrupted(demo.prepare(own), interrupted)
                async with Fleece(Settings(disk=demo.disk)) as fleece:
                    await ending.unless_interrupted(demo.show(fleece), interrupted)
                    if given.stay and demo.proven:
                        _say_lines(screen, fleece.uri, fleece.guest_uri, fleece.qmp_path)
                        screen.say("\nPress Ctrl-C to end.")
                        await fleece.daemon.unless_ended(interrupted.event.wait())
            if demo.proven and not given.stay:
                _say_next(screen)
        return 0 if demo.proven else 1

    return ending.run(PROGRAM, verb)


class _Demo:
    """The steps of the demonstration.

    Args:
        folder: Where files are made.
        screen: Where people look.
    """

    def __init__(self, folder: Path, screen: Screen) -> None:
        self.disk: Final = folder / "disk.raw"
        self.proven = False
        self._pulled: Final = folder / "pulled.raw"
        self._screen: Final = screen
        self._before = ""
        self._over: Final = threading.Event()

    async def prepare(self, own: Path | None) -> None:
        """Make the disk.

        Raises:
            Failure: The user's own can't be copied.
        """
        say = self._screen.say
        if own is None:
            await self._on_thread(_make_sample, self.disk)
            say(f"1. A sample disk of {size_text(SAMPLE_SIZE)} is made.")
        else:
            say(f"1. {own} is only read; the demonstration works on a copy of it.")
            await self._on_thread(_copy_disk, own, self.disk, self._over)
        self._before = await self._on_thread(_sha256, self.disk, self._over)
        say(f"   SHA-256 {self._before}")

    async def show(self, fleece: Fleece) -> None:
        """Write and pull at the same time, and compare."""
        say = self._screen.say
        say("\n2. It is fleeced: a filter saves what is about to be overwritten. NBD exports:")
        say(f"   guest     {fleece.guest_uri}")
        say(f"   snapshot  {fleece.uri}")
        say("\n3. A guest writes to 'guest' all the time; meanwhile 'snapshot' is pulled.")
        started = time.monotonic()
        written = Written()
        guest = await NbdClient.connect(nbd_uri.parse(fleece.guest_uri))
        writer = asyncio.create_task(_write(guest, written))
        try:
            await self._pull(fleece, writer)
            await asyncio.wait({writer}, timeout=_GUEST_TIME_S - (time.monotonic() - started))
        finally:
            writer.cancel()
            await asyncio.wait({writer})
        if not writer.cancelled():
            writer.result()
        spent = time.monotonic() - started
        await guest.flush()
        await guest.close()
        status = fleece.status()
        say(
            f"   guest: {written.count} writes, {size_text(written.size)} in {time_text(spent)}; "
            f"{size_text(status.copied)} saved before being overwritten"
        )
        await self._compare(status.broken)

    async def _pull(self, fleece: Fleece, writer: "asyncio.Task[None]") -> None:
        client = await NbdClient.connect(
            nbd_uri.parse(fleece.uri), [const.CONTEXT_BASE_ALLOCATION]
        )
        try:
            plan = Plan(const.CONTEXT_BASE_ALLOCATION in client.contexts)
            pulling = asyncio.create_task(pull_into(client, self._pulled, plan, self._screen))
            try:
                await asyncio.wait({pulling, writer}, return_when=asyncio.FIRST_COMPLETED)
                if not pulling.done():
                    writer.result()  # it ends by failing only
                await pulling
            finally:
                pulling.cancel()
                await asyncio.wait({pulling})
        finally:
            await client.close()

    async def _compare(self, broken: str | None) -> None:
        say = self._screen.say
        pulled = await self._on_thread(_sha256, self._pulled, self._over)
        after = await self._on_thread(_sha256, self.disk, self._over)
        say("\n4. SHA-256 of")
        say(f"   the disk at the start  {self._before}")
        say(f"   the pulled snapshot    {pulled}")
        say(f"   the disk now           {after}")
        self.proven = pulled == self._before != after
        if self.proven:
            say("\n   What was pulled is the disk as it was, although the disk has changed.")
        else:
            say(f"\n   This is NOT as it must be. {broken or ''}")

    async def _on_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``call`` on a thread, which is told when nobody waits for it any more."""
        try:
            return await asyncio.to_thread(call, *args, **kwargs)
        except asyncio.CancelledError:
            self._over.set()
            raise


async def _write(guest: NbdClient, written: Written) -> None:
    """Write to the disk until cancelled."""
    chance = random.Random(1)  # noqa: S311 - where a guest writes is no secret
    noise = memoryview(os.urandom(max(_GUEST_SIZES) * 2))
    while True:
        length = min(chance.choice(_GUEST_SIZES), guest.size)
        offset = chance.randrange((guest.size - length) // 512 + 1) * 512
        start = chance.randrange(len(noise) - length)
        await guest.pwrite(offset, noise[start : start + length])
        written.count += 1
        written.size += length
        await asyncio.sleep(_GUEST_PAUSE_S)


# -- files, on worker threads; what takes long ends early when it is ``over`` ------------------


def _place(own: Path | None) -> Path:
    """Return the directory to work in: beside the user's disk if that may be written to."""
    if own is not None and os.access(own.parent, os.W_OK):
        return own.parent
    return Path(tempfile.gettempdir())


def _make_sample(path: Path) -> None:
    with path.open("wb") as file:
        for low, high in SAMPLE_DATA:
            file.seek(low * MIB)
            for _ in range(low, high):
                file.write(os.urandom(MIB))
        file.truncate(SAMPLE_SIZE)


def _copy_disk(source: Path, target: Path, over: threading.Event) -> None:
    """Copy a disk, sharing its blocks where the file system can, and leaving holes out.

    Its end is filled up with zeroes to a whole sector, as a guest sees it.
    """
    try:
        if source.is_fifo() or source.is_char_device():  # who opens or reads one may wait for ever
            raise Failure(f"'{source}' is neither a regular file nor a block device")
        with source.open("rb") as reader, target.open("wb") as writer:
            size = reader.seek(0, os.SEEK_END)
            if not size:
                raise Failure(f"'{source}' is empty")
            writer.truncate(size)
            with contextlib.suppress(OSError):
                fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
                writer.truncate(size + -size % 512)
                return
            used = min(os.fstat(reader.fileno()).st_blocks * 512 or size, size)
            # The copy, what is pulled, and what is saved.
            if shutil.disk_usage(target.parent).free < 3 * used + MIB:
                raise Failure(
                    f"{target.parent.parent} has no room for {size_text(3 * used)}: a copy of "
                    f"'{source}', what is pulled, and what is saved"
                )
            _copy_data(reader.fileno(), writer.fileno(), size, over)
            writer.truncate(size + -size % 512)
    except OSError as error:
        raise Failure(f"cannot copy '{source}': {error.strerror}") from error


def _copy_data(source: int, target: int, size: int, over: threading.Event) -> None:
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(source, offset, os.SEEK_DATA)
            end = os.lseek(source, offset, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more data
                return
            end = size  # it can't tell, as block devices can't
        while offset < end:
            data = os.pread(source, min(MIB, end - offset), offset)
            if not data or over.is_set():
                return
            os.pwrite(target, data, offset)
            offset += len(data)


def _sha256(path: Path, over: threading.Event) -> str:
    digest = hashlib.sha256()
    buf = memoryview(bytearray(MIB))
    with path.open("rb", buffering=0) as file:
        while (length := file.readinto(buf)) and not over.is_set():
            digest.update(buf[:length])
    return digest.hexdigest()


# -- what to try next -------------------------------------------------------------------------


def _say_next(screen: Screen) -> None:
    screen.say("\nTry it yourself. In one terminal:")
    screen.say("   truncate -s 1G disk.raw")
    screen.say(
        f"   {_program('qmpfleece')} fleece disk.raw --nbd unix:/tmp/nbd.sock --qmp /tmp/qmp.sock"
    )
    screen.say("and in another one:")
    path = "/tmp/nbd.sock"  # noqa: S108 - a name for the user to type
    _say_lines(
        screen,
        str(nbd_uri.NbdUri("snapshot", path=path)),
        str(nbd_uri.NbdUri("guest", path=path)),
        Path("/tmp/qmp.sock"),  # noqa: S108
    )


def _say_lines(screen: Screen, uri: str, guest_uri: str, qmp: Path) -> None:
    for line in (
        f"nbdinfo '{uri}'",
        f"qemu-io -f raw -c 'write -P 1 0 1M' '{guest_uri}'",
        f"nbdcopy '{uri}' backup.raw",
        f"{_program('qmpfleece')} pull '{uri}' backup.raw --sha256",
        f"{_program('qmp-shell')} -p {qmp}      (then: query-named-block-nodes flat=true)",
    ):
        screen.say(f"   {line}")


def _program(name: str) -> str:
    """Return how the user can call a program of ours."""
    if shutil.which(name):
        return name
    beside = Path(sys.argv[0]).parent / name
    return str(beside) if beside.exists() else name
