"""The commands of qemu-io that act on the program itself, for tests of what a crash leaves."""

import asyncio
import os
import re
import signal
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.control.qemu_io.command import Call, IoCommand, register
from qmpfleece.control.qemu_io.numbers import parse_size

_MILLISECONDS: Final = re.compile(r"0x[0-9a-f]+|(?P<octal>0[0-7]*)|[1-9][0-9]*", re.IGNORECASE)


async def _sleep(call: Call) -> str:
    match = _MILLISECONDS.fullmatch(call.words[0])
    if match is None:
        raise QmpError(f"{call.words[0]} is not a valid number")
    await asyncio.sleep(int(match[0], 8 if match["octal"] else 0) / 1000)
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
