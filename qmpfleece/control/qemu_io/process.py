"""The commands of qemu-io that act on the program itself, for tests of what a crash leaves."""

import asyncio
import os
import signal
import time
from typing import Final

from qmpfleece.base.digits import c_number
from qmpfleece.base.errors import QmpError
from qmpfleece.control.qemu_io.command import Call, IoCommand, register
from qmpfleece.control.qemu_io.numbers import parse_size

_INT64_MAX: Final = (1 << 63) - 1
_UINT64_MAX: Final = (1 << 64) - 1
_NS_PER_MS: Final = 1_000_000


async def _sleep(call: Call) -> str:
    milliseconds = c_number(call.words[0])
    if milliseconds is None or milliseconds < 0:
        raise QmpError(f"{call.words[0]} is not a valid number")
    # QEMU's clock has 64 bits with a sign: what lies beyond is in the past.
    now_ns = time.time_ns()
    end_ns = now_ns + min(milliseconds, _INT64_MAX) * _NS_PER_MS & _UINT64_MAX
    if end_ns <= _INT64_MAX:
        await asyncio.sleep(max(end_ns - now_ns, 0) / 1_000_000_000)
    return ""


async def _sigraise(call: Call) -> str:
    number = parse_size(call.words[0])
    if number >= signal.NSIG:
        raise QmpError(f"signal argument '{call.words[0]}' is too large to be a valid signal")
    if number:
        os.kill(os.getpid(), number)  # whichever thread takes it
    return ""


async def _abort(call: Call) -> str:
    del call
    os.abort()


register(
    IoCommand("sleep", _sleep, "-- waits for the given value in milliseconds", least=1, most=1)
)
register(IoCommand("sigraise", _sigraise, "signal -- raises a signal", least=1, most=1))
register(IoCommand("abort", _abort, "-- simulate a program crash using abort(3)"))
