"""drive-backup: the image is made, filled and closed; texts are those of QEMU 7.2."""

import re

import pytest

from tests.control.commands.conftest import ENDED, SIZE, STARTED
from tests.tools.disk import qemu_img
from tests.tools.fleecing import CLUSTER, pattern

ALL = {"device": "disk", "job_id": "j", "sync": "full"}


def read_image(path, image_format):
    """Return what an image holds, as qemu-img reads it."""
    raw = path.with_suffix(".out")
    qemu_img("convert", "-f", image_format, "-O", "raw", path, raw)
    return raw.read_bytes()


@pytest.mark.parametrize(
    ("image_format", "more"),
    [
        ("raw", ""),
        ("file", ""),
        ("qcow2", " cluster_size=65536 extended_l2=off compression_type=zlib"),
    ],
)
async def test_image_is_made_and_filled(desk, tmp_path, capfd, image_format, more):
    path = tmp_path / "image"
    assert await desk.say("drive-backup", format=image_format, target=str(path), **ALL) == {}
    await desk.until("j null")
    assert desk.heard == STARTED + ENDED
    await desk.take()
    tail = " lazy_refcounts=off refcount_bits=16" if more else ""
    said = f"Formatting '{path}', fmt={image_format}{more} size={SIZE}{tail}\n"
    assert capfd.readouterr().out == said
    assert read_image(path, "qcow2" if more else "raw") == pattern(SIZE)
    if more:
        qemu_img("check", path)


async def test_image_that_exists_is_opened(desk, tmp_path, capfd):
    path = tmp_path / "image"
    path.write_bytes(bytes(SIZE))
    await desk.say("drive-backup", mode="existing", target=str(path), **ALL)
    await desk.until("j null")
    assert path.read_bytes() == pattern(SIZE)
    assert capfd.readouterr().out == ""


async def test_qcow2_image_that_exists_is_recognised(desk, tmp_path):
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", path, SIZE)
    await desk.say("drive-backup", mode="existing", target=str(path), **ALL)
    await desk.until("j null")
    await desk.take()
    assert read_image(path, "qcow2") == pattern(SIZE)


async def test_sync_none_shows_the_old_disk_in_an_overlay(desk, tmp_path):
    source = tmp_path / "disk"
    source.write_bytes(pattern(SIZE))
    path = tmp_path / "image"
    await desk.say("blockdev-add", driver="file", node_name="f", filename=str(source))
    guest = desk.guest("f")
    given = {"device": "f", "job_id": "j", "sync": "none", "format": "qcow2"}
    assert await desk.say("drive-backup", target=str(path), **given) == {}
    await guest.pwrite(3 * CLUSTER, memoryview(b"g" * CLUSTER))
    buf = bytearray(SIZE)
    reader = next(node for node in desk.graph.nodes() if node.driver.driver_name == "qcow2")
    await reader.driver.pread(0, memoryview(buf))
    assert buf == pattern(SIZE)
    await desk.say("job-cancel", id="j")
    await desk.until("j null")
    await desk.take()
    assert re.search(r"backing file: .*disk", qemu_img("info", path))
    await guest.detach()
    await desk.say("blockdev-del", node_name="f")


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"format": "zzz"}, "Unknown file format 'zzz'"),
        ({"format": "null-co"}, "Format driver 'null-co' does not support image creation"),
        ({"target": "json:{}", "format": "raw"}, "Unknown protocol 'json'"),
        (
            {"target": "/nonexistent/x", "format": "raw"},
            "Could not create '/nonexistent/x': No such file or directory",
        ),
        (
            {"target": "/nonexistent/x", "format": "raw", "mode": "existing"},
            "Could not open '/nonexistent/x': No such file or directory",
        ),
        (
            {"target": "/nonexistent/x", "mode": "existing"},
            "Could not open '/nonexistent/x': No such file or directory",
        ),
        ({"device": "x"}, "Cannot find device='x' nor node-name='x'"),
        (
            {"sync": "none", "format": "raw"},
            "Backing file not supported for file format 'raw'",
        ),
        (
            {"sync": "bitmap", "format": "raw"},
            "must provide a valid bitmap name for 'bitmap' sync mode",
        ),
        ({"job-id": "1", "format": "raw"}, "Invalid job ID '1'"),
        ({"speed": -1, "format": "qcow2"}, "Parameter 'speed' expects a non-negative value"),
        ({"target": ""}, "Format driver 'gate' does not support image creation"),
    ],
)
async def test_refused_backup_leaves_no_node(desk, tmp_path, members, error):
    before = desk.graph.nodes()
    given = {"device": "disk", "job-id": "j", "sync": "full", "target": str(tmp_path / "image")}
    assert await desk.say("drive-backup", given | members) in {
        error,
        "Unknown file format 'gate'",
    }
    assert desk.graph.nodes() == before
    assert await desk.say("query-jobs") == []


async def test_raw_image_cannot_show_the_source(desk, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bytes(SIZE))
    before = desk.graph.nodes()
    given = ALL | {"sync": "none", "mode": "existing", "format": "raw"}
    reply = await desk.say("drive-backup", target=str(path), **given)
    assert re.fullmatch(r"Driver 'raw' of node '#block\d+' does not support backing files", reply)
    assert desk.graph.nodes() == before


async def test_drive_backup_is_an_action(desk, tmp_path):
    path = tmp_path / "image"
    data = {"device": "disk", "job-id": "j", "sync": "full", "target": str(path), "format": "raw"}
    actions = [{"type": "drive-backup", "data": data}]
    abort = [{"type": "abort", "data": {}}]
    before = desk.graph.nodes()
    await desk.say("transaction", actions=actions + abort)
    assert desk.graph.nodes() == before
    await desk.take()
    assert await desk.say("transaction", actions=actions) == {}
    await desk.until("j null")
    assert path.read_bytes() == pattern(SIZE)


@pytest.mark.parametrize("cluster_size", ["4k", "64k", "2M"])
async def test_compressed_backup_is_smaller_and_equal(desk, tmp_path, cluster_size):
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster_size}", path, SIZE)
    given = ALL | {"mode": "existing", "format": "qcow2", "compress": True}
    assert await desk.say("drive-backup", target=str(path), **given) == {}
    await desk.until("j null")
    await desk.take()
    assert read_image(path, "qcow2") == pattern(SIZE)
    assert re.search(r"[1-9][0-9.]*% compressed", qemu_img("check", path))
