"""``qmpfleece pull URI FILE``: the backup client."""

import argparse
import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.block.hostfile import locks
from qmpfleece.block.perm import Perm
from qmpfleece.cli import ending, streams
from qmpfleece.cli.display import Meter, Screen
from qmpfleece.cli.ending import Failure
from qmpfleece.cli.words import size_text, time_text
from qmpfleece.nbdclient import uri as nbd_uri
from qmpfleece.nbdclient.client import NbdClient
from qmpfleece.nbdclient.copy import Plan, Progress, copy
from qmpfleece.nbdclient.sparse import SparseFile
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.codec import NbdProtocolError, NbdRefused

PROGRAM: Final = "qmpfleece pull"


def main(given: argparse.Namespace) -> int:
    """Run the verb and return the exit status."""
    screen = Screen(quiet=given.quiet)

    async def verb() -> int:
        with ending.catching_signals() as interrupted:
            await ending.unless_interrupted(_pull(given, screen), interrupted)
        return 0

    return ending.run(PROGRAM, verb)


async def _pull(given: argparse.Namespace, screen: Screen) -> None:
    path = Path(given.file)
    target = nbd_uri.parse(given.uri)
    context = const.CONTEXT_DIRTY_BITMAP + given.bitmap if given.bitmap else ""
    wanted = [const.CONTEXT_BASE_ALLOCATION, *([context] if context else [])]
    client = await _connect(target, wanted)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        if context and context not in client.contexts:
            raise Failure(f"the export '{target.name}' has no dirty bitmap '{given.bitmap}'")
        plan = Plan(const.CONTEXT_BASE_ALLOCATION in client.contexts, context)
        name = target.name or target.where
        screen.say(f"pulling '{name}' into {path}: {size_text(client.size)}")
        digest = await pull_into(
            client, path, plan, screen, update=given.update, sha256=given.sha256
        )
    if digest:
        streams.deliver(f"{digest}  {path}")


async def _connect(target: nbd_uri.NbdUri, contexts: list[str]) -> NbdClient:
    try:
        return await NbdClient.connect(target, contexts)
    except NbdRefused as error:
        raise Failure(f"the server at {target.where} refuses: {error}") from error
    except NbdProtocolError as error:
        raise Failure(f"{target.where} does not speak NBD well: {error}") from error
    except UnicodeError as error:
        raise Failure(f"'{target.host}' can't be the name of a host") from error
    except OSError as error:
        raise Failure(f"cannot connect to {target.where}: {ending.words(error)}") from error


async def pull_into(
    client: NbdClient,
    path: Path,
    plan: Plan,
    screen: Screen,
    *,
    update: bool = False,
    sha256: bool = False,
) -> str:
    """Copy an export into a file, showing progress.

    Returns:
        The SHA-256 of the file's content, "" unless it was asked for.

    Raises:
        Failure: The file is not complete.
    """
    with contextlib.ExitStack() as stack:
        claim = stack.enter_context(contextlib.ExitStack())
        try:
            claim.enter_context(claimed(path, update=update))
            sink = SparseFile(path, client.size, update=update)
        except OSError as error:
            raise Failure(f"cannot write '{path}': {error.strerror}") from error
        stack.callback(sink.discard)
        return await _fill(sink, client, plan, screen, claim, sha256=sha256)


async def _fill(
    sink: SparseFile,
    client: NbdClient,
    plan: Plan,
    screen: Screen,
    claim: contextlib.ExitStack,
    *,
    sha256: bool,
) -> str:
    progress = Progress(size=client.size)
    started = time.monotonic()
    digest = ""
    try:
        with screen.copying(client.uri.name or "copying", progress) as meter:
            ticker = asyncio.create_task(_tick(meter))
            try:
                await copy(client, sink, plan, progress)
            finally:
                ticker.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await ticker
            if screen.live:
                meter.tick()
        await sink.sync()
        spent = time.monotonic() - started
        if sha256:
            screen.say(f"reading {sink.path} back for its SHA-256")
            digest = await sink.sha256()
        if not sink.in_place:  # on NFS and FUSE a file that is open is not replaced in one step
            claim.close()
        await sink.finish()
    except NbdProtocolError as error:
        raise Failure(f"{client.uri.where}: {error}; {_left(sink)}") from error
    except OSError as error:
        raise Failure(f"{_failed(error)}; {_left(sink)}") from error
    except asyncio.CancelledError:
        screen.say(f"stopping; {_left(sink)}")
        raise
    screen.say(
        f"complete: {size_text(progress.copied)} copied, "
        f"{size_text(progress.size - progress.copied)} had nothing to copy, "
        f"{time_text(spent)}, {size_text(progress.copied / max(spent, 1e-3))}/s"
    )
    return digest


@contextlib.contextmanager
def claimed(path: Path, *, update: bool) -> Iterator[None]:
    """Spare the disk of a running machine, whose file would lose its name, or be overwritten.

    For the length of the block none that is started gets the file, nor does another pull;
    who only reads gets it unless it is written in place.

    Raises:
        Failure: A program that locks images as QEMU does has it open.
        OSError: It can't be looked at.
    """
    if not (path.is_file() or path.is_block_device()):
        yield
        return
    in_place = update or path.is_block_device()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        others = Perm.ALL & ~Perm.WRITE
        try:
            locks.apply(fd, Perm.WRITE if in_place else Perm.NONE, others, drop=False)
            locks.check(fd, Perm.WRITE, others)
        except QmpError as error:
            text = f"cannot write '{path}': {error.desc}; is another process using it?"
            raise Failure(text) from error
        yield
    finally:
        os.close(fd)


async def _tick(meter: Meter) -> None:
    while True:
        await asyncio.sleep(meter.interval_s)
        meter.tick()


def _failed(error: OSError) -> str:
    text = ending.words(error)
    if error.errno == errno.EINVAL:
        text += " (a snapshot that has been given up answers so)"
    return text


def _left(sink: SparseFile) -> str:
    if sink.complete:
        return f"{sink.path} has its new content already"
    if sink.in_place:
        return f"{sink.path} is now part old, part new"
    return f"{sink.path} is unchanged" if sink.path.exists() else f"{sink.path} was not made"
