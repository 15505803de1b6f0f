"""Opening files; when they are writable."""

import asyncio
import os
import resource
import socket
import subprocess
import threading

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.block.conftest import open_files
from tests.block.drivers.file.conftest import KIB, SIZE, R, W, flags_of, read
from tests.tools.hold import cancelled_after
from tests.tools.hostfile import add_file, buffer
from tests.tools.memory import hold
from tests.tools.until import settle

# -- opening -------------------------------------------------------------------------------


async def refused(graph, filename, driver="file", **options: object):
    wire = {key.replace("_", "-"): value for key, value in options.items()}
    given = {"driver": driver, "node-name": "n", "filename": str(filename), **wire}
    files = open_files()
    with pytest.raises(QmpError) as caught:
        await graph.add(validate_blockdev(given))
    assert open_files() == files
    assert graph.nodes() == []
    return caught.value.desc


async def test_what_is_no_image_is_refused_in_qemus_words(graph, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
    (tmp_path / "plain").touch()
    texts = {
        ("none", False): "Could not open 'none': No such file or directory",
        ("", False): "The 'file' block driver requires a file name",
        (tmp_path, False): f"Could not open '{tmp_path}': Is a directory",
        (tmp_path, True): f"'file' driver requires '{tmp_path}' to be a regular file",
        (tmp_path / "fifo", False): f"'file' driver requires '{tmp_path}/fifo' to be a regular"
        " file",
        (tmp_path / "fifo", True): f"'file' driver requires '{tmp_path}/fifo' to be a regular"
        " file",
        (tmp_path / "sock", False): f"Could not open '{tmp_path}/sock': No such device or address",
        ("/dev/null", False): "'file' driver requires '/dev/null' to be a regular file",
        ("plain\0", False): "Could not open 'plain\0': No such file or directory",
    }
    for (filename, read_only), text in texts.items():
        assert await refused(graph, filename, read_only=read_only) == text
    for name in ("plain", "fifo"):
        assert await refused(graph, tmp_path / name, "host_device") == (
            f"'host_device' driver requires '{tmp_path / name}' to be either a character or block"
            " device"
        )


async def test_options_that_contradict_are_refused(graph, image):
    assert await refused(graph, image, aio="native") == (
        "aio=native was specified, but it requires cache.direct=on, which was not specified."
    )
    assert await refused(graph, image, force_share=True) == (
        "force-share=on can only be used with read-only images"
    )
    assert await refused(graph, image, detect_zeroes="unmap") == (
        "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"
    )


async def test_host_device_takes_a_character_device_as_an_empty_disk(graph):
    given = {"driver": "host_device", "node-name": "n", "filename": "/dev/null"}
    node = await graph.add(validate_blockdev(given))
    assert node.length == 0
    assert node.exact_filename == "/dev/null"


async def test_cancelled_opening_leaves_no_file_open(graph, image):
    files = open_files()
    cancelled = 0
    for turns in range(1, 7):
        task = await cancelled_after(turns, add_file(graph, image))
        if task.cancelled():
            cancelled += 1
            assert graph.nodes() == []
        else:
            await graph.delete("file")
        assert open_files() == files
    assert cancelled


# -- read-only, auto-read-only -------------------------------------------------------------


async def test_file_is_held_writable_only_while_somebody_writes(graph, image):
    node = await add_file(graph, image, auto_read_only=True)
    assert not node.read_only
    assert flags_of(node) & os.O_ACCMODE == os.O_RDONLY
    edge = hold(graph, node, R | W)
    assert flags_of(node) & os.O_ACCMODE == os.O_RDWR
    graph.detach(edge)
    assert flags_of(node) & os.O_ACCMODE == os.O_RDONLY
    os.unlink(image)  # the file is opened anew by its descriptor, not by its name
    hold(graph, node, R | W)
    assert flags_of(node) & (os.O_ACCMODE | os.O_CLOEXEC) == os.O_RDWR | os.O_CLOEXEC


async def test_reads_go_on_while_the_file_is_opened_anew(graph, image, monkeypatch):
    reader = Backend(graph, "reader")
    reader.attach(node := await add_file(graph, image, auto_read_only=True))
    node.driver._nowait = 0  # all reads through the threads
    content = image.read_bytes()
    done = 0

    async def read_on():
        nonlocal done
        for offset in range(0, SIZE, 4 * KIB):
            assert await read(reader, offset, 4 * KIB) == content[offset : offset + 4 * KIB]
            done += 1

    tasks = [asyncio.ensure_future(read_on()) for _ in range(4)]
    switches = 0
    while not all(task.done() for task in tasks):
        edge = hold(graph, node, R | W)
        await asyncio.sleep(0)
        graph.detach(edge)
        await asyncio.sleep(0)
        switches += 1
    await asyncio.gather(*tasks)
    assert done == 4 * SIZE // (4 * KIB)
    assert switches > 5


async def test_detaching_a_writer_waits_for_its_writes(graph, image, monkeypatch):
    backend = Backend(graph, "guest", R | W)
    backend.attach(node := await add_file(graph, image, auto_read_only=True, aio="threads"))
    may_write = threading.Event()
    real = os.pwritev

    def slow(*args: object):
        may_write.wait()
        return real(*args)

    monkeypatch.setattr(os, "pwritev", slow)
    write = asyncio.ensure_future(backend.pwrite(0, buffer(b"new")))
    await settle()
    detach = asyncio.ensure_future(backend.detach())
    await settle()
    assert not detach.done()
    late = asyncio.ensure_future(backend.pwrite(0, buffer(b"too late")))
    await settle()
    assert flags_of(node) & os.O_ACCMODE == os.O_RDWR
    may_write.set()
    await asyncio.gather(write, detach)
    with pytest.raises(OSError, match="No medium found"):
        await late
    assert image.read_bytes()[:8] != b"too late"
    assert image.read_bytes()[:3] == b"new"
    assert flags_of(node) & os.O_ACCMODE == os.O_RDONLY


@pytest.fixture
def read_only_mount(image, tmp_path):
    mount = tmp_path / "mount"
    mount.mkdir()
    words = ["mount", "--bind", tmp_path, mount]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no mounts here")
    subprocess.run(["mount", "-o", "remount,ro,bind", mount], check=True)
    yield mount / image.name
    subprocess.run(["umount", "-l", mount], check=True)


async def test_file_that_can_not_be_written(graph, read_only_mount):
    text = f"Could not open '{read_only_mount}': Read-only file system"
    assert await refused(graph, read_only_mount) == text
    node = await add_file(graph, read_only_mount, auto_read_only=True)
    files = open_files()
    with pytest.raises(QmpError) as caught:
        hold(graph, node, R | W)
    assert caught.value.desc == text
    assert node.parents == []
    assert open_files() == files
    hold(graph, node, R)
    read_only = await add_file(graph, read_only_mount, "second", read_only=True)
    with pytest.raises(QmpError, match="Block node is read-only"):
        hold(graph, read_only, W)


async def test_detaching_a_writer_without_a_free_descriptor_keeps_the_file_writable(graph, image):
    node = await add_file(graph, image, auto_read_only=True)
    edge = hold(graph, node, R | W)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        graph.detach(edge)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    edge = hold(graph, node, R | W)
    graph.detach(edge)
    assert flags_of(node) & os.O_ACCMODE == os.O_RDONLY
