import asyncio
import errno
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings

from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block.driver import ReqFlags
from tests.tools.disk import Disk, check, content, opened, qemu_img, qemu_io
from tests.tools.qcow2 import Geometry, Step, geometries, steps

KINDS = ["write", "write", "write", "zero", "unmap", "discard", "flush", "reopen", "parallel"]
KINDS += ["resize", "compressed", "snapshot"]
SLOW = settings(suppress_health_check=list(HealthCheck), max_examples=20)
SOAK = settings(SLOW, max_examples=300)


async def write_model(disk: Disk, model: bytearray, offset: int, data: bytes) -> None:
    await disk.write(offset, data)
    model[offset : offset + len(data)] = data


async def write_compressed(disk: Disk, model: bytearray, step: Step) -> None:
    """Write one cluster compressed, unless one is there already or that can't be done."""
    size = disk.node.driver.cluster_size
    start = step.range(len(model))[0] // size * size
    length = min(size, len(model) - start)
    data = (step.data(32) * (size // 32))[:length]
    try:
        await disk.driver.pwrite_compressed(start, memoryview(data))
    except OSError as error:
        if error.errno not in {errno.EIO, errno.ENOTSUP}:
            raise
    else:
        model[start : start + length] = data


def take_snapshot(image: Path, geometry: Geometry, number: int) -> str | None:
    """Have qemu-img take a snapshot, where it can."""
    # One bit counts to 1; with a data file there are no snapshots; v2 could not be resized.
    refused = {"refcount_bits=1", "refcount_bits=2", "compat=0.10"} & set(geometry.options)
    if geometry.data_file or refused:
        return None
    qemu_img("snapshot", "-c", f"s{number}", image)
    return f"s{number}"


async def take(disk: Disk, model: bytearray, step: Step) -> None:
    """Do one step to the disk and to its model."""
    offset, length = step.range(len(model))
    end = offset + length
    match step.kind:
        case "write":
            await write_model(disk, model, offset, step.data(length))
        case "zero":
            await disk.guest.pwrite_zeroes(offset, length)
            model[offset:end] = bytes(length)
        case "unmap":
            await disk.guest.pwrite_zeroes(offset, length, ReqFlags.MAY_UNMAP)
            model[offset:end] = bytes(length)
        case "discard":
            await disk.guest.pdiscard(offset, length)
            # What it reads as is not promised, but that it stays the same is.
            model[offset:end] = await disk.read(offset, length)
        case "flush":
            await disk.guest.flush()
        case "resize":
            size = (step.seed % 3000 + 1) * 512
            await disk.resize(size)
            model.extend(bytes(max(0, size - len(model))))
            del model[size:]
        case "compressed":
            await write_compressed(disk, model, step)
        case "parallel":
            data = step.data(length)
            third = length // 3 + 1
            await asyncio.gather(
                *(
                    write_model(disk, model, offset + start, data[start : start + third])
                    for start in range(0, length, third)
                ),
                disk.guest.flush(),
            )


async def use(geometry: Geometry, todo: list[Step], folder: Path) -> None:
    image, model = geometry.create(folder)
    files = geometry.files(folder)
    snapshots: dict[str, bytes] = {}
    async with opened(image, **files) as disk:
        for step in todo:
            if step.kind == "reopen":
                await disk.reopen(image, **files)
            elif step.kind == "snapshot":
                await disk.close()
                if name := take_snapshot(image, geometry, len(snapshots)):
                    snapshots[name] = bytes(model)
                await disk.open(image, **files)
            else:
                await take(disk, model, step)
            assert await disk.read() == model
        await disk.reopen(image, **files)
        assert await disk.read() == model
    check(image)
    assert content(image, folder, geometry.tool_options(folder, image)) == model
    for name, before in snapshots.items():
        qemu_img("convert", "-O", "raw", "-l", f"snapshot.name={name}", image, folder / "old.raw")
        # It is shown as large as the disk is now; what follows its own end is undefined.
        old = (folder / "old.raw").read_bytes()
        assert old[: len(before)] == before[: len(old)]


@SLOW
@given(geometries(), steps(KINDS))
def test_image_written_at_random_is_clean_and_reads_alike_through_qemu_img(geometry, todo):
    with TemporaryDirectory() as folder:
        asyncio.run(use(geometry, todo, Path(folder)))


@pytest.mark.soak
@SOAK
@given(geometries(), steps(KINDS))
def test_many_images_written_at_random_read_alike_through_qemu_img(geometry, todo):
    with TemporaryDirectory() as folder:
        asyncio.run(use(geometry, todo, Path(folder)))


QEMU_KINDS = {
    "write": "write -P {pattern} {offset} {length}",
    "zero": "write -z {offset} {length}",
    "unmap": "write -z -u {offset} {length}",
    "discard": "discard {offset} {length}",
    "flush": "flush",
    "compressed": "write -c -P {pattern} {start} {cluster}",
}


async def read_what_qemu_wrote(geometry: Geometry, todo: list[Step], folder: Path) -> None:
    image, _ = geometry.create(folder)
    options = geometry.tool_options(folder, image)
    commands = []
    for step in todo:
        offset, length = (value // 512 * 512 for value in step.range(geometry.size))
        cluster = 1 << geometry.cluster_bits
        start = offset // cluster * cluster
        if not length or (step.kind == "compressed" and geometry.data_file):
            continue
        commands.append(
            QEMU_KINDS[step.kind].format(
                pattern=1 + step.seed % 255,
                offset=offset,
                length=length,
                start=start,
                cluster=min(cluster, geometry.size - start),
            )
        )
    for start in range(0, len(commands), 10):
        # It refuses compressed data where a cluster exists.
        qemu_io(image, *commands[start : start + 10], options=options, may_fail=True)
    files = geometry.files(folder)
    async with opened(image, read_only=True, **files) as disk:
        assert await disk.read() == content(image, folder, options)
        offset = geometry.size // 3
        whole = await disk.read()
        assert await disk.read(offset, 1) == whole[offset : offset + 1]


@SLOW
@given(geometries(), steps(list(QEMU_KINDS)))
def test_image_written_by_qemu_io_reads_alike(geometry, todo):
    with TemporaryDirectory() as folder:
        asyncio.run(read_what_qemu_wrote(geometry, todo, Path(folder)))


@pytest.mark.soak
@SOAK
@given(geometries(), steps(list(QEMU_KINDS)))
def test_many_images_written_by_qemu_io_read_alike(geometry, todo):
    with TemporaryDirectory() as folder:
        asyncio.run(read_what_qemu_wrote(geometry, todo, Path(folder)))


async def test_unused_tables_are_looked_for_while_the_image_is_open(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    async with opened(image) as disk:
        cleaner = disk.driver.image.cleaner
        assert cleaner.running
    assert not cleaner.running
    async with opened(image, cache_clean_interval=0) as disk:
        assert not disk.driver.image.cleaner.running


async def test_image_that_can_not_be_marked_clean_is_closed_and_stays_dirty(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", image, "1M")
    async with opened(image) as disk:
        await disk.write(0, b"x" * 65536)
        await disk.guest.flush()
        file = disk.node.children["file"].node
        whole = file.driver.pwrite

        async def pwrite(offset, buf, flags):
            if offset == 72:
                raise OSError(errno.EIO, "Input/output error")
            await whole(offset, buf, flags)

        file.driver.pwrite = pwrite
    assert disk.graph.nodes() == []
    assert image.read_bytes()[79] == 1
    assert content(image, tmp_path)[:65536] == b"x" * 65536


async def test_data_survives_when_the_bitmaps_directory_is_not_flushed(tmp_path, capsys):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    async with opened(image) as disk:
        disk.node.bitmaps.append(DirtyBitmap(disk.node.length, 65536, "b", persistent=True))
        await disk.write(0, b"x" * 65536)
        driver = disk.node.children["file"].node.driver
        whole = driver.pwrite, driver.flush

        async def flush():
            driver.flush = whole[1]
            raise OSError(errno.EIO, "Input/output error")

        async def pwrite(offset, buf, flags):
            await whole[0](offset, buf, flags)
            if not offset:  # the header
                driver.flush, driver.pwrite = flush, whole[0]

        driver.pwrite = pwrite
    assert capsys.readouterr().err == (
        "Lost persistent bitmaps during inactivation of node 'disk':"
        " Failed to update bitmap extension: Input/output error\n"
    )
    check(image)
    assert "bitmaps" not in qemu_img("info", image)
    assert content(image, tmp_path)[:65536] == b"x" * 65536
