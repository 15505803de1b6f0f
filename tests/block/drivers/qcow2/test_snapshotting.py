"""Taking and deleting internal snapshots: what they hold, what failure and death leave."""

import asyncio
import contextlib
import errno
import json
import random
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from qmpfleece.block.drivers.qcow2 import overlap
from qmpfleece.block.drivers.qcow2.layout import OFFSET_MASK, Incompatible
from tests.tools.disk import check, content, opened, qemu_img, qemu_io, run
from tests.tools.failing import Failing
from tests.tools.snapshots import allowed, delete, fill, take

ROOT = Path(__file__).parents[4]
OPTIONS = ["compat=1.1", "cluster_size=512,refcount_bits=64", "cluster_size=4096"]
OPTIONS += ["lazy_refcounts=on", "extended_l2=on", "compat=0.10"]
SIZE = 1 << 20


def snapshots(image):
    told = json.loads(qemu_img("info", "-U", "--output=json", image))
    return [item["name"] for item in told.get("snapshots", [])]


def content_of(image, name):
    flat = image.parent / "snapshot.raw"
    qemu_img("convert", "-l", name, "-O", "raw", image, flat)
    return flat.read_bytes()


def made(tmp_path, options=""):
    image = tmp_path / "a.qcow2"
    option = ["-o", options] if options else []
    qemu_img("create", "-q", "-f", "qcow2", *option, image, SIZE)
    return image


@pytest.mark.parametrize("options", OPTIONS)
async def test_snapshots_hold_what_the_disk_held(tmp_path, options):
    image, rnd = made(tmp_path, options), random.Random(1)
    model, kept = bytearray(SIZE), {}
    async with opened(image) as disk:
        for number in range(12):
            for _ in range(rnd.randrange(4)):
                at, length = rnd.randrange(SIZE - 70000), rnd.randrange(1, 70000)
                data = rnd.randbytes(length)
                await disk.write(at, data)
                model[at : at + length] = data
            await take(disk, f"s{number}")
            kept[f"s{number}"] = bytes(model)
            if len(kept) > 3:
                gone = rnd.choice(list(kept))
                await delete(disk, gone)
                del kept[gone]
            assert await disk.read() == model
    check(image)
    assert snapshots(image) == list(kept)
    for name, data in kept.items():
        assert content_of(image, name) == data
    assert content(image, tmp_path) == model


async def test_compressed_clusters_are_shared(tmp_path):
    image = made(tmp_path)
    qemu_io(image, "write -c -P 7 0 128k", "write -c -P 8 512k 64k")
    async with opened(image) as disk:
        await take(disk, "s")
        await disk.write(0, b"\1" * 65536)
        await take(disk, "t")
        await delete(disk, "s")
        await disk.write(65536, b"\1" * 65536)
    check(image)
    held = content_of(image, "t")
    assert held[:131072] == b"\1" * 65536 + b"\7" * 65536
    assert held[524288 : 524288 + 65536] == b"\x08" * 65536


async def test_deleting_the_last_snapshot_leaves_nothing_of_it(tmp_path):
    image = made(tmp_path)
    async with opened(image) as disk:
        await fill(disk, 1)
        await take(disk, "s")
        await fill(disk, 2)
        await delete(disk, "s")
        used = disk.node.driver.image.l1[0]
        await fill(disk, 3)
        assert disk.node.driver.image.l1[0] == used  # in place again
    check(image)
    assert not snapshots(image)


async def test_snapshot_of_an_empty_disk_takes_no_cluster_and_gives_none_back(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, 0)
    async with opened(image) as disk:
        await take(disk, "ours")
    check(image)
    qemu_img("snapshot", "-c", "theirs", image)
    async with opened(image) as disk:
        await delete(disk, "ours")
        await delete(disk, "theirs")
        await disk.resize(SIZE)
        await fill(disk, 1)
        await take(disk, "s")
        await fill(disk, 2)
        await delete(disk, "s")
        assert await disk.read() == b"\2" * SIZE
    check(image)
    assert content(image, tmp_path) == b"\2" * SIZE


async def test_l2_tables_of_snapshots_are_looked_after_as_long_as_these_are_there(tmp_path):
    image = made(tmp_path)
    flags = {"template": "none", "inactive-l2": True}
    async with opened(image, overlap_check=flags) as disk:
        await fill(disk, 1)
        opened_image = disk.node.driver.image
        table = opened_image.l1[0] & OFFSET_MASK
        assert opened_image.overlap.find(table, 1) is None
        await take(disk, "s")
        await take(disk, "t")
        await fill(disk, 2)
        await delete(disk, "s")
        assert opened_image.overlap.find(table, 1) == overlap.INACTIVE_L2
        await disk.reopen(image, overlap_check=flags)
        assert disk.node.driver.image.overlap.find(table, 1) == overlap.INACTIVE_L2
        await delete(disk, "t")
        assert disk.node.driver.image.overlap.find(table, 1) is None


async def test_too_many_references_refuse_the_snapshot_and_leave_no_trace(tmp_path):
    image = made(tmp_path, "refcount_bits=1")
    async with opened(image) as disk:
        await fill(disk, 1)
        with pytest.raises(OSError, match="Invalid argument") as caught:
            await take(disk, "s")
        assert caught.value.errno == errno.EINVAL
        await fill(disk, 2)
    check(image)
    assert not snapshots(image)
    assert content(image, tmp_path) == b"\2" * SIZE


async def test_read_only_image_keeps_its_snapshots(tmp_path):
    image = made(tmp_path)
    qemu_img("snapshot", "-c", "s", image)
    async with opened(image, read_only=True) as disk:
        with pytest.raises(OSError, match="not permitted"):
            await delete(disk, "s")
    assert snapshots(image) == ["s"]


@pytest.mark.parametrize("event", ["l2_update", "l1_update", "refblock_update_part"])
@pytest.mark.parametrize("doing", ["take", "delete"])
async def test_failed_write_leaves_an_image_that_goes_on(tmp_path, event, doing):
    image = made(tmp_path)
    async with opened(image) as disk:
        await fill(disk, 1)
        await take(disk, "old")
    error = {"event": event, "errno": 5, "once": True}
    bad = {
        "driver": "blkdebug",
        "image": {"driver": "file", "filename": str(image)},
        "inject-error": [error],
    }
    async with opened(image, file=bad) as disk:
        if doing == "take":
            await disk.write(0, b"\1" * 512)  # so that there are flags to be cleared
        with pytest.raises(OSError, match="Input/output"):
            await (take(disk, "new") if doing == "take" else delete(disk, "old"))
        assert await disk.read() == b"\1" * SIZE
        await fill(disk, 3)
        await take(disk, "later")
        await fill(disk, 4)
    assert content(image, tmp_path) == b"\4" * SIZE
    assert content_of(image, "later") == b"\3" * SIZE
    left = snapshots(image)
    if doing == "take":
        assert left == ["old", "later"]
    if "old" in left:
        assert content_of(image, "old") == b"\1" * SIZE
    check(image)


#: How the image is made; how many operations fail in a row, and whether they are done.
FAILURES = [
    ("cluster_size=4096", 1, False),
    ("cluster_size=4096", 1, True),
    ("cluster_size=4096,compat=0.10", 1, True),
    ("cluster_size=4096", 3, True),
]


async def fail_and_verify(image, tmp_path, doing, failing):
    """Let operations of the file fail; whether it got so far."""
    killed = tmp_path / "killed.qcow2"
    async with opened(image) as disk:
        await disk.write(0, b"\2" * 100_000)
        await disk.guest.flush()
        now = await disk.read()
        before = {"old": b"\1" * SIZE}
        failing.begin(disk.node.children["file"].node.driver)
        try:
            await (take(disk, "new") if doing == "take" else delete(disk, "old"))
            failed = False
        except OSError:
            failed = True
        failing.end()
        assert await disk.read() == now
        names = [item["name"] for item in disk.driver.internal_snapshots()]
        if not failed:
            assert names == (["old", "new"] if doing == "take" else [])
        elif doing == "take":
            assert names == ["old"]
        before["new"] = now
        await fill(disk, 3)
        await disk.guest.flush()
        killed.write_bytes(image.read_bytes())
        found = snapshots(killed)
        assert found == names or (failed and doing == "delete")
        for name in found:
            assert content_of(killed, name) == before[name], name
        if doing == "delete" and failed and names:
            await delete(disk, "old")
            names = []
        await take(disk, "later")
        names.append("later")
        before["later"] = b"\3" * SIZE
        await fill(disk, 4)
    assert content(image, tmp_path) == b"\4" * SIZE
    assert snapshots(image) == names
    for name in names:
        assert content_of(image, name) == before[name], name
    told = run("qemu-img", "check", "-f", "qcow2", image, may_fail=True)
    assert "ERROR" not in told
    return failing.reached


@pytest.mark.parametrize(("options", "many", "landed"), FAILURES)
@pytest.mark.parametrize("doing", ["take", "delete"])
async def test_whatever_write_or_flush_fails_disk_and_snapshots_keep_their_data(
    tmp_path, options, many, landed, doing
):
    image = made(tmp_path, options)
    async with opened(image) as disk:
        await fill(disk, 1)
        await take(disk, "old")
    whole = image.read_bytes()
    for number in count():
        image.write_bytes(whole)
        failing = Failing(number, many, landed=landed)
        if not await fail_and_verify(image, tmp_path, doing, failing):
            break
    assert number


@pytest.mark.parametrize("many", [1, 2, 3])
@pytest.mark.parametrize("doing", ["take", "delete"])
async def test_snapshot_that_can_not_be_finished_for_want_of_a_table_leaves_a_sound_image(
    tmp_path, doing, many
):
    """Read errors: an image that is not sound at once says that it is dirty."""
    image = made(tmp_path, "cluster_size=4096")
    async with opened(image) as disk:
        await fill(disk, 1)
        await take(disk, "old")
        await disk.write(0, b"\2" * 100_000)
    whole = image.read_bytes()
    for number in count():
        image.write_bytes(whole)
        failing = Failing(number, many, verbs=("pread",))
        async with opened(image, l2_cache_size=8192) as disk:
            failing.begin(disk.node.children["file"].node.driver)
            with contextlib.suppress(OSError):
                await (take(disk, "new") if doing == "take" else delete(disk, "old"))
            failing.end()
        if not image.read_bytes()[79] & Incompatible.DIRTY:
            told = run("qemu-img", "check", "-f", "qcow2", image, may_fail=True)
            assert "ERROR" not in told, number
        async with opened(image):
            pass
        check(image)
        assert content(image, tmp_path)[:100_000] == b"\2" * 100_000
        if not failing.reached:
            break
    assert number


def kill_during_use(image, seed):
    user = subprocess.Popen(
        [sys.executable, "-m", "tests.tools.snapshots", image, str(seed)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert user.stdout is not None
    first = user.stdout.readline()
    # Any moment will do, so this is no wait for something to happen.
    time.sleep(random.Random(seed).uniform(0, 0.3))
    user.kill()
    lines = (first + user.stdout.read()).split()
    user.stdout.close()
    user.wait()
    return int(lines[-1])


def kill_and_verify(image, seed):
    flushed = kill_during_use(image, seed)
    qemu_img("check", "-q", "-r", "all", image)
    check(image)
    found = snapshots(image)
    assert found in allowed(seed, flushed), seed
    for name in found:
        assert content_of(image, name) == bytes([int(name[1:])]) * SIZE, (name, seed)
    data = content(image, image.parent)
    for sector in range(0, SIZE, 512):
        block = data[sector : sector + 512]
        assert block in {bytes([flushed]) * 512, bytes([flushed + 1]) * 512}


@pytest.mark.parametrize("seed", range(len(OPTIONS)))
def test_killed_user_leaves_whole_snapshots(tmp_path, seed):
    kill_and_verify(made(tmp_path, OPTIONS[seed]), seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 250))
def test_user_killed_many_times_leaves_whole_snapshots(tmp_path, seed):
    kill_and_verify(made(tmp_path, OPTIONS[seed % len(OPTIONS)]), seed)


@pytest.mark.parametrize("seed", [3, 4])
def test_image_of_a_killed_user_is_repaired_when_it_is_opened(tmp_path, seed):
    image = made(tmp_path)
    flushed = kill_during_use(image, seed)

    async def open_and_close():
        async with opened(image):
            pass

    asyncio.run(open_and_close())
    told = run("qemu-img", "check", "-f", "qcow2", image, may_fail=True)
    assert "ERROR" not in told  # what writes have given up may have leaked
    assert snapshots(image) in allowed(seed, flushed)
