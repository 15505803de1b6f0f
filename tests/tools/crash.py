"""A guest that writes to an image until it is killed, and what must be true afterwards.

Every batch of requests is announced on stdout before it begins, every flush after it has
ended; so whoever reads along knows what was acknowledged. All is decided by the seed.

Run as ``python -m tests.tools.crash IMAGE SEED``.
"""

import asyncio
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qmpfleece.block.driver import ReqFlags
from tests.tools.disk import Disk, opened

SECTOR = 512


@dataclass
class Request:
    """A write, or zeroes or a discard, which are both zeroes here; its tag is what it writes."""

    kind: str
    sector: int
    sectors: int
    tag: int

    @property
    def content(self) -> int:
        return self.tag if self.kind == "write" else 0

    def data(self) -> bytes:
        return self.tag.to_bytes(8, "little") * (SECTOR // 8) * self.sectors

    async def send(self, disk: Disk) -> None:
        offset, length = self.sector * SECTOR, self.sectors * SECTOR
        if self.kind == "write":
            await disk.write(offset, self.data())
        elif self.kind == "zero":
            await disk.guest.pwrite_zeroes(offset, length, ReqFlags.MAY_UNMAP)
        else:
            await disk.guest.pwrite_zeroes(offset, length)


def batches(seed: int, sectors: int) -> Iterator[tuple[list[Request], bool]]:
    """Yield requests to be sent together, and whether a flush follows."""
    rnd = random.Random(seed)
    tag = 0
    while True:
        batch = []
        for _ in range(rnd.randint(1, 4)):
            tag += 1
            first = rnd.randrange(sectors)
            count = min(rnd.choice([1, 8, 100, 300]), sectors - first)
            kind = rnd.choice(["write", "write", "write", "zero", "keep"])
            batch.append(Request(kind, first, count, tag))
        yield batch, rnd.random() < 0.2


def allowed(seed: int, sectors: int, announced: int, flushed: int) -> list[set[int]]:
    """What each sector may hold after ``announced`` batches, of which ``flushed`` are stable."""
    may: list[set[int]] = [{0} for _ in range(sectors)]
    for number, (batch, _) in enumerate(batches(seed, sectors), 1):
        if number > announced:
            return may
        touched: dict[int, set[int]] = {}
        for request in batch:
            for sector in range(request.sector, request.sector + request.sectors):
                touched.setdefault(sector, set()).add(request.content)
        for sector, contents in touched.items():
            may[sector] = contents if number <= flushed else may[sector] | contents
    raise AssertionError


async def load(image: Path, seed: int) -> None:
    async with opened(image) as disk:
        sectors = disk.node.length // SECTOR
        for number, (batch, flush) in enumerate(batches(seed, sectors), 1):
            os.write(1, b"b%d\n" % number)
            await asyncio.gather(*(request.send(disk) for request in batch))
            if flush:
                await disk.guest.flush()
                os.write(1, b"f%d\n" % number)


if __name__ == "__main__":
    asyncio.run(load(Path(sys.argv[1]), int(sys.argv[2])))
