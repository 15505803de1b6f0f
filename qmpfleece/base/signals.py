"""Signals that come to the event loop, also with what the kernel knows of their senders."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence


@contextlib.contextmanager
def handled(numbers: Sequence[signal.Signals], take: Callable[[int], None]) -> Iterator[None]:
    """Let ``take`` be called on the event loop with the number of every signal."""
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, take, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
        # The loop would leave Python's own: a traceback for who is impatient.
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def attended(
    numbers: Sequence[signal.Signals], take: Callable[[signal.struct_siginfo], None]
) -> Iterator[None]:
    """Do as ``handled``, but tell what the kernel knows, which handlers in Python are not told.

    To be entered in the main thread while it is the only one, as others would get the signals.
    """
    loop = asyncio.get_running_loop()
    over = threading.Event()

    def wait() -> None:
        while True:
            info = signal.sigwaitinfo(numbers)
            if over.is_set():
                return
            loop.call_soon_threadsafe(take, info)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    waiter = threading.Thread(target=wait, name="signals", daemon=True)
    waiter.start()
    assert waiter.ident is not None
    try:
        yield
    finally:
        over.set()
        signal.pthread_kill(waiter.ident, numbers[0])
        waiter.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def sender(info: signal.struct_siginfo) -> str:
    """Return in QEMU's words who has sent a signal, "" if nobody has: a terminal did."""
    if not info.si_pid:
        return ""
    try:
        with open(f"/proc/{info.si_pid}/cmdline", errors="surrogateescape") as file:
            name = file.read().partition("\0")[0]
    except OSError:
        name = ""
    return f" from pid {info.si_pid} ({name or '<unknown process>'})"
