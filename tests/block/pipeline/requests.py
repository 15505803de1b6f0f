"""What tests ask of an edge."""

import random

from qmpfleece.block import pipeline
from qmpfleece.block.driver import ReqFlags

SIZE = 64 * 1024
F = ReqFlags


def pattern(length, seed=1):
    return random.Random(seed).randbytes(length)


async def read(edge, offset, length):
    buf = bytearray(length)
    await pipeline.pread(edge, offset, memoryview(buf))
    return bytes(buf)


def write(edge, offset, data, flags=0):
    return pipeline.pwrite(edge, offset, memoryview(data), flags)
