"""The order of metadata writes: what is left when the process is killed, or a write fails."""

import asyncio
import contextlib
import errno
import random
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from tests.tools import crash
from tests.tools.disk import Disk, check, content, opened, qemu_img
from tests.tools.failing import Failing
from tests.tools.hold import start
from tests.tools.until import until

ROOT = Path(__file__).parents[4]
OPTIONS = ["", "cluster_size=512,refcount_bits=64", "cluster_size=4096", "lazy_refcounts=on"]
OPTIONS += ["extended_l2=on", "compat=0.10", "cluster_size=512,refcount_bits=1"]
SIZE = 2 << 20


def kill_during_load(image, seed):
    """Run the load and kill it; how many batches were announced, and how many are stable."""
    guest = subprocess.Popen(
        [sys.executable, "-m", "tests.tools.crash", image, str(seed)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert guest.stdout is not None
    first = guest.stdout.readline()
    # Any moment will do, so this is no wait for something to happen.
    time.sleep(random.Random(seed).uniform(0, 0.4))
    guest.kill()
    lines = (first + guest.stdout.read()).split()
    guest.stdout.close()
    guest.wait()
    announced = max(int(line[1:]) for line in lines if line.startswith(b"b"))
    flushed = max([0, *(int(line[1:]) for line in lines if line.startswith(b"f"))])
    return announced, flushed


def has_corruption(image):
    done = subprocess.run(
        ["qemu-img", "check", "-U", "-q", "-f", "qcow2", str(image)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode in {0, 3}:  # 3: clusters have leaked
        return ""
    return f"{done.stderr}{done.stdout}qemu-img has ended with {done.returncode}"


async def repair(image):
    """Open the image for writing, and close it: it must be as good as new, without leaks."""
    async with opened(image):
        pass
    check(image)


def kill_and_verify(image, options, seed):
    option = ["-o", options] if options else []
    qemu_img("create", "-q", "-f", "qcow2", *option, image, SIZE)
    announced, flushed = kill_during_load(image, seed)
    if "lazy" in options:
        asyncio.run(repair(image))
    assert not has_corruption(image)
    data = content(image, image.parent)
    may = crash.allowed(seed, SIZE // 512, announced, flushed)
    for sector, tags in enumerate(may):
        block = data[sector * 512 : sector * 512 + 512]
        tag = int.from_bytes(block[:8], "little")
        assert block == block[:8] * 64
        assert tag in tags, f"sector {sector} of {announced}/{flushed} batches, seed {seed}"


@pytest.mark.parametrize("seed", range(len(OPTIONS)))
def test_killed_guest_loses_nothing_that_was_flushed(tmp_path, seed):
    kill_and_verify(tmp_path / "a.qcow2", OPTIONS[seed], seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 300))
def test_guest_killed_many_times_loses_nothing_that_was_flushed(tmp_path, seed):
    kill_and_verify(tmp_path / "a.qcow2", OPTIONS[seed % len(OPTIONS)], seed)


async def test_image_left_dirty_is_counted_again_when_it_is_opened(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", image, SIZE)
    kill_during_load(image, 5)
    before = content(image, tmp_path)
    async with opened(image) as disk:
        assert await disk.read() == before
        await disk.write(0, b"x" * 100_000)
    assert not has_corruption(image)
    qemu_img("check", "-q", image)
    assert content(image, tmp_path) == b"x" * 100_000 + before[100_000:]


class Recorder:
    """Keeps what reaches the file below an image.

    Attributes:
        log: Writes as they begin, zeroes and discards among them: from then on they may be on the
            disk. Flushes as they end: the places in the log of the writes that had ended when it
            began; others it may have missed.
    """

    def __init__(self, disk: Disk) -> None:
        self.log: list[tuple[int, bytes] | frozenset[int]] = []
        self._ended: set[int] = set()
        self._driver = disk.node.children["file"].node.driver
        self._pwrite, self._flush = self._driver.pwrite, self._driver.flush
        self._pdiscard = self._driver.pdiscard
        self._driver.pwrite = self._record_write
        self._driver.pwrite_zeroes = self._record_zeroes
        self._driver.pdiscard = self._record_discard
        self._driver.flush = self._record_flush

    async def _record_write(self, offset, buf, flags):
        await self._record(offset, bytes(buf), self._pwrite(offset, buf, flags))

    async def _record_zeroes(self, offset, length, _flags):
        await self._record_write(offset, memoryview(bytes(length)), 0)

    async def _record_discard(self, offset, length):
        await self._record(offset, bytes(length), self._pdiscard(offset, length))

    async def _record(self, offset, data, request):
        number = len(self.log)
        self.log.append((offset, data))
        await request
        self._ended.add(number)

    async def _record_flush(self):
        stable = frozenset(self._ended)
        await self._flush()
        self.log.append(stable)


async def record_load(image, seed, count):
    """Run some batches; the writes, and at which of them which batch was acknowledged."""
    marks = []
    async with opened(image) as disk:
        recorder = Recorder(disk)
        sectors = disk.node.length // 512
        for number, (batch, flush) in enumerate(crash.batches(seed, sectors), 1):
            marks.append((len(recorder.log), number, False))
            flushes = [disk.guest.flush() for _ in range(number % 3)]  # side by side, too
            await asyncio.gather(*(request.send(disk) for request in batch), *flushes)
            if flush or number % 5 == 0:
                await disk.guest.flush()
                marks.append((len(recorder.log), number, True))
            if number == count:
                return recorder.log[:], marks
    raise AssertionError


@pytest.mark.parametrize("seed", range(len(OPTIONS)))
async def test_power_may_fail_at_any_write(tmp_path, seed):
    await fail_power_and_verify(tmp_path, OPTIONS[seed], seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 200))
async def test_power_may_fail_many_times_at_any_write(tmp_path, seed):
    await fail_power_and_verify(tmp_path, OPTIONS[seed % len(OPTIONS)], seed)


async def fail_power_and_verify(tmp_path, options, seed):
    """Writes since the last flush of the file may be lost, each on its own."""
    rnd = random.Random(seed)
    image, broken = tmp_path / "a.qcow2", tmp_path / "broken.qcow2"
    option = ["-o", options] if options else []
    qemu_img("create", "-q", "-f", "qcow2", *option, image, SIZE)
    empty = image.read_bytes()
    log, marks = await record_load(image, seed, 30)
    for _ in range(25):
        moment = rnd.randrange(len(log) + 1)
        past = list(enumerate(log[:moment]))
        stable = {number for _, item in past if isinstance(item, frozenset) for number in item}
        broken.write_bytes(empty)
        with broken.open("r+b") as file:
            for number, item in past:
                if isinstance(item, tuple) and (number in stable or rnd.random() < 0.5):
                    file.seek(item[0])
                    file.write(item[1])
        if "lazy" in options:
            await repair(broken)
        assert not has_corruption(broken), f"seed {seed}, {moment} of {len(log)}"
        announced = max(number for at, number, done in marks if at <= moment and not done)
        flushed = max((number for at, number, done in marks if at <= moment and done), default=0)
        may = crash.allowed(seed, SIZE // 512, announced, flushed)
        data = content(broken, tmp_path)
        for sector, tags in enumerate(may):
            assert int.from_bytes(data[sector * 512 : sector * 512 + 8], "little") in tags


async def test_cluster_is_not_given_back_by_a_flush_that_began_before_its_table_was_written(
    tmp_path,
):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", image, SIZE)
    async with opened(image, discard="unmap") as disk:
        await disk.write(0, b"a" * 4096)
        await disk.write(4096, b"b" * 4096)
        await disk.guest.flush()
        driver = disk.node.driver
        number = driver.image.l2.peek(driver.image.l1[0] & ~(1 << 63)).words[1] >> 12 & 0xFFFF
        file = disk.node.children["file"].node.driver
        calls, gates, whole = 0, [asyncio.Event(), asyncio.Event()], file.flush

        async def flush():
            nonlocal calls
            calls += 1
            # Before tables are written it goes on; afterwards, to give clusters back, it waits.
            if not calls % 2:
                await gates[calls // 2 - 1].wait()
            await whole()

        file.flush = flush
        await disk.guest.pdiscard(0, 4096)
        first = await start(disk.guest.flush())
        await until(lambda: calls == 2)
        await disk.guest.pdiscard(4096, 4096)
        second = await start(disk.guest.flush())
        await until(lambda: calls == 4)
        file.flush = whole
        gates[0].set()
        await first
        count = await driver.image.refcounts.get(number)
        gates[1].set()
        await second
        assert count == 1
        assert await driver.image.refcounts.get(number) == 0
    check(image)


def failing_after(working, whole):
    """A pwrite for which the file is full after some writes."""
    count = 0

    async def pwrite(offset, buf, flags):
        nonlocal count
        count += 1
        if count > working:
            raise OSError(errno.ENOSPC, "No space left on device")
        await whole(offset, buf, flags)

    return pwrite


async def test_flush_fails_and_later_succeeds_when_the_file_can_be_written_again(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, SIZE)
    async with opened(image) as disk:
        await disk.write(0, b"x" * 65536)
        driver = disk.node.children["file"].node.driver
        whole, failed = driver.pwrite, 0
        for working in range(4):
            driver.pwrite = failing_after(working, whole)
            with contextlib.suppress(OSError):
                await disk.write(65536 * working, b"y" * 70000)
            try:
                await disk.guest.flush()
            except OSError:
                failed += 1
            assert not has_corruption(image)
            driver.pwrite = whole
        assert failed
        await disk.guest.flush()
        await disk.write(0, b"z" * 300_000)
    qemu_img("check", "-q", image)
    assert content(image, tmp_path).startswith(b"z" * 300_000)


async def use_and_kill(image, killed, failing):
    """Let operations of the file fail, then flush; whether it got so far."""
    async with opened(image) as disk:
        failing.begin(disk.node.children["file"].node.driver)
        for number in range(4):
            with contextlib.suppress(OSError):
                await disk.write(number * 65536, b"x" * 65536)
                await disk.guest.flush()
        failing.end()
        await disk.write(0, b"y" * 4 * 65536)
        await disk.guest.flush()
        killed.write_bytes(image.read_bytes())
    return failing.reached


@pytest.mark.parametrize("landed", [False, True])
async def test_lazy_refcounts_are_counted_again_whatever_write_or_flush_has_failed(
    tmp_path, landed
):
    image, killed = tmp_path / "a.qcow2", tmp_path / "killed.qcow2"
    for number in count():
        qemu_img("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", image, SIZE)
        if not await use_and_kill(image, killed, Failing(number, landed=landed)):
            break
        check(image)
        await repair(killed)
        assert content(killed, tmp_path).startswith(b"y" * 4 * 65536)
    assert number
