"""A user that fills a disk, takes and deletes snapshots until it is killed.

Run as ``python -m tests.tools.snapshots IMAGE SEED``. A snapshot called ``s7`` holds the byte 7
everywhere; the disk itself the byte that was written last, or the one before.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.tools.disk import Disk, opened


async def take(disk: Disk, name: str) -> None:
    await disk.driver.take_snapshot(name, time.time_ns(), 0)


async def delete(disk: Disk, name: str) -> None:
    for item in disk.driver.internal_snapshots():
        if item["name"] == name:
            await disk.driver.delete_snapshot(item["id"])


async def fill(disk: Disk, number: int) -> None:
    await disk.write(0, bytes([number]) * disk.node.length)


def plan(seed: int) -> Iterator[tuple[int, str, list[str]]]:
    """Yield a number, which snapshot is deleted after the one of that number was taken, if not
    empty, and which are there then."""
    rnd = random.Random(seed)
    names: list[str] = []
    for number in range(1, 250):
        names.append(f"s{number}")
        gone = names.pop(rnd.randrange(len(names))) if len(names) > rnd.randrange(4) else ""
        yield number, gone, names[:]


def allowed(seed: int, announced: int) -> list[list[str]]:
    """Which snapshots there may be when that number was the last to be announced."""
    before: list[str] = []
    for number, _, after in plan(seed):
        if number == announced:
            return [before, [*before, f"s{number}"], after]
        before = after
    raise AssertionError


async def use(image: Path, seed: int) -> None:
    async with opened(image) as disk:
        for number, gone, _ in plan(seed):
            await fill(disk, number)
            await disk.guest.flush()
            os.write(1, b"%d\n" % number)
            await take(disk, f"s{number}")
            if gone:
                await delete(disk, gone)


if __name__ == "__main__":
    asyncio.run(use(Path(sys.argv[1]), int(sys.argv[2])))
