"""``qmpfleece fleece DISK``: show a disk as it is now, while it is written to."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmpfleece.cli import ending
from qmpfleece.cli.aside import Aside
from qmpfleece.cli.display import Screen
from qmpfleece.cli.fleecing import Fleece, Settings, Status
from qmpfleece.cli.words import size_text, time_text

PROGRAM: Final = "qmpfleece fleece"


def main(given: argparse.Namespace) -> int:
    """Run the verb and return the exit status."""
    settings = Settings(
        disk=Path(given.disk),
        format=given.format,
        temp=Path(given.temp) if given.temp else None,
        nbd=given.nbd,
        qmp=Path(given.qmp) if given.qmp else None,
        on_error=given.on_error,
        timeout_s=given.timeout,
    )

    async def verb() -> int:
        # The command's output is its own. And whoever looks must not hold up the guest.
        with Aside(sys.stderr) as errors, _warnings_to(errors), contextlib.ExitStack() as stack:
            own = given.run is None
            screen = Screen(stack.enter_context(Aside(sys.stdout)) if own else errors)
            with ending.catching_signals() as interrupted:
                async with Fleece(settings) as fleece:
                    gc.freeze()  # collections would stop the guest's requests, see qsd
                    _introduce(fleece, settings, screen)
                    if given.run is not None:
                        return await _run(given.run, fleece, screen, interrupted)
                    await _watch(fleece, screen, interrupted)
            screen.say("ended; the disk stays as the guest has written it")
            return 0

    return ending.run(PROGRAM, verb)


@contextlib.contextmanager
def _warnings_to(stream: Aside) -> Iterator[None]:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(f"{PROGRAM}: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def _introduce(fleece: Fleece, settings: Settings, screen: Screen) -> None:
    now = time.strftime("%H:%M:%S")
    screen.say(f"disk      {settings.disk}, {size_text(fleece.size)}, {settings.format}")
    screen.say(f"guest     {fleece.guest_uri}  (read and write here)")
    screen.say(f"snapshot  {fleece.uri}  (the disk as of {now})")
    screen.say(f"QMP       {fleece.qmp_path}")


async def _watch(fleece: Fleece, screen: Screen, interrupted: ending.Interrupted) -> None:
    """Show how it goes until a signal comes or somebody says quit."""
    screen.say("Press Ctrl-C to end.")
    started = time.monotonic()
    ends = [
        asyncio.create_task(interrupted.event.wait()),
        asyncio.create_task(fleece.daemon.wait()),
    ]
    try:
        with screen.status() as line:
            warned = over = False
            while not over:
                # What happened just before the end is told as well.
                over = any(end.done() for end in ends)
                now = fleece.status()
                if now.broken and not warned:
                    _warn(now, screen)
                    warned = True
                line.show(status_text(now), time_text(time.monotonic() - started))
                await asyncio.wait(
                    ends, timeout=line.interval_s, return_when=asyncio.FIRST_COMPLETED
                )
    finally:
        for end in ends:
            end.cancel()
        await asyncio.wait(ends)


def status_text(status: Status) -> str:
    """Return the live line, without the time gone by."""
    clients = f"{status.clients} client{'' if status.clients == 1 else 's'}"
    text = (
        f"{size_text(status.copied)} saved, {size_text(status.temp_used)} temporary space, "
        f"{clients}"
    )
    return f"{text} - SNAPSHOT LOST" if status.broken else text


def _warn(status: Status, screen: Screen) -> None:
    screen.say(f"warning: the snapshot is lost: {status.broken}")
    screen.say("         reads of it fail from now on; the guest is not harmed")


async def _run(
    command: str, fleece: Fleece, screen: Screen, interrupted: ending.Interrupted
) -> int:
    """Run the user's command; return its exit status, as a shell does.

    Raises:
        Failure: A signal has come before it could be begun.
    """
    if interrupted.number:
        raise interrupted.failure()
    environment = os.environ | {
        "uri": fleece.uri,
        "guest_uri": fleece.guest_uri,
        "qmp": str(fleece.qmp_path),
    }
    # At a terminal the command may read from it, and has its Ctrl-C from it. Elsewhere signals are
    # for all that it starts.
    alone = not _at_terminal()
    process = _begin(command, environment, alone=alone)

    def tell(number: int) -> None:
        # It may have ended just now, or belong to somebody else, as sudo does. The process's own
        # way is for one process, and for the thread that waits for it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if alone:
                os.killpg(process.pid, number)
            elif number != signal.SIGINT:
                os.kill(process.pid, number)

    async def heed_quit() -> None:
        await fleece.daemon.wait()
        interrupted.take(signal.SIGTERM)  # without the monitor the command is of no more use

    ended = asyncio.create_task(asyncio.to_thread(process.wait))
    quitting = asyncio.create_task(heed_quit())
    stop = asyncio.create_task(interrupted.event.wait())
    warned = False
    try:
        while not ended.done():
            await asyncio.wait({ended, stop}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            now = fleece.status()
            if now.broken and not warned:
                _warn(now, screen)
                warned = True
            if stop.done() and not ended.done():
                for number in interrupted.pop():
                    tell(number)
                stop = asyncio.create_task(interrupted.event.wait())
    finally:
        stop.cancel()
        quitting.cancel()
        if process.returncode is None:  # also if there is no thread to wait for it
            tell(signal.SIGKILL)
        await asyncio.wait({ended, stop, quitting})
    status = ended.result()
    return status if status >= 0 else 128 - status


def _begin(command: str, environment: dict[str, str], *, alone: bool) -> "subprocess.Popen[bytes]":
    """Start the user's command, which gets what we were given: descriptors, ignored signals.

    SIGPIPE and SIGXFSZ, which Python ignores, do to it what they do to any program.

    Not by the loop: uvloop's would let it have copies of our output besides, so that who reads
    that waits for what the command leaves behind.
    """
    return subprocess.Popen(  # noqa: S602 - a shell's command it is
        command, shell=True, env=environment, start_new_session=alone, close_fds=False
    )


def _at_terminal() -> bool:
    """Tell whether what a terminal says is for us."""
    try:
        with Path("/dev/tty").open("rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
