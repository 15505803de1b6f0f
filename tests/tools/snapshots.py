"""A user that fills a disk, takes and deletes snapshots until it is killed.

Run as ``python -m tests.tools.snapshots IMAGE SEED``. A snapshot called ``s7`` holds the byte 7
everywhere; the disk itself the byte that was written last, or the one before.
"""

import asyncio
import os
import random
import sys
import time
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


async def use(image: Path, seed: int) -> None:
    rnd = random.Random(seed)
    async with opened(image) as disk:
        names: list[str] = []
        for number in range(1, 250):
            await fill(disk, number)
            await disk.guest.flush()
            os.write(1, b"%d\n" % number)
            await take(disk, f"s{number}")
            names.append(f"s{number}")
            if len(names) > rnd.randrange(4):
                await delete(disk, names.pop(rnd.randrange(len(names))))


if __name__ == "__main__":
    asyncio.run(use(Path(sys.argv[1]), int(sys.argv[2])))
