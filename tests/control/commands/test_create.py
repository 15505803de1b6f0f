"""blockdev-create of files; texts are those of QEMU 7.2."""

import pytest

from qmpfleece.block.backend import Backend
from qmpfleece.block.drain import drained
from qmpfleece.block.perm import Perm


async def _create(desk, **options: object):
    """Create, and return the error of the job, None if there was none."""
    assert await desk.say("blockdev-create", job_id="c", options=options) == {}
    await desk.until("c concluded")
    (info,) = await desk.say("query-jobs")
    assert (info["type"], info["current-progress"], info["total-progress"]) == ("create", 1, 1)
    await desk.say("job-dismiss", id="c")
    return info.get("error")


async def test_created_file_has_the_size_and_the_job_waits_to_be_dismissed(desk, tmp_path):
    path = tmp_path / "new"
    assert await _create(desk, driver="file", filename=str(path), size=1000001) is None
    assert path.read_bytes() == bytes(1000001)
    assert desk.heard == [
        "c created",
        "c running",
        "return",
        "c waiting",
        "c pending",
        "c concluded",
        "return",
        "c null",
        "return",
    ]
    assert await desk.say("query-block-jobs") == []


@pytest.mark.parametrize("preallocation", ["falloc", "full"])
async def test_space_is_reserved_on_demand(desk, tmp_path, preallocation):
    path = tmp_path / "new"
    options = {"driver": "file", "filename": str(path), "size": 1 << 20, "nocow": True}
    assert await _create(desk, preallocation=preallocation, **options) is None
    assert path.stat().st_blocks * 512 >= 1 << 20
    assert path.read_bytes() == bytes(1 << 20)


async def test_existing_file_is_overwritten(desk, tmp_path):
    path = tmp_path / "new"
    path.write_bytes(b"old" * 1000)
    assert await _create(desk, driver="file", filename=str(path), size=512) is None
    assert path.read_bytes() == bytes(512)


async def test_file_that_is_not_to_be_resized_is_left_alone(desk, tmp_path):
    path = tmp_path / "new"
    path.write_bytes(b"x" * 1024)
    await desk.say("blockdev-add", driver="file", node_name="f", filename=str(path))
    user = Backend(desk.graph, shared=Perm.ALL & ~Perm.RESIZE)
    user.attach(desk.graph.find("f"))
    error = await _create(desk, driver="file", filename=str(path), size=512)
    await user.detach()
    await desk.say("blockdev-del", node_name="f")
    assert path.read_bytes() == b"x" * 1024
    assert error == 'Failed to get "resize" lock'


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"filename": "/nonexistent/x", "size": 0}, "No such file or directory"),
        ({"filename": ".", "size": 0}, "Could not create '.': Is a directory"),
        ({"filename": "FILE", "size": -5}, "Could not resize file: Invalid argument"),
        (
            {"filename": "FILE", "size": 0, "preallocation": "metadata"},
            "Unsupported preallocation mode: metadata",
        ),
        (
            {"filename": "FILE", "size": 0, "extent-size-hint": -1},
            "Extent size hint is too large",
        ),
        (
            {"filename": "FILE", "size": 1 << 62, "preallocation": "falloc"},
            "Could not preallocate new data: File too large",
        ),
        ({"filename": "/dev/full", "size": 512}, "Could not resize file: Invalid argument"),
    ],
)
async def test_what_goes_wrong_is_the_error_of_the_job(desk, tmp_path, options, error):
    if options["filename"] == "FILE":
        options = options | {"filename": str(tmp_path / "new")}
    assert error in await _create(desk, driver="file", **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"driver": "null-co"}, "Driver does not support blockdev-create"),
        ({"driver": "raw"}, "Driver does not support blockdev-create"),
        ({"driver": "zzz"}, "Parameter 'driver' does not accept value 'zzz'"),
        ({"driver": "file", "filename": "x"}, "Parameter 'options.size' is missing"),
        ({"driver": "host_device", "size": 0}, "Parameter 'options.size' is unexpected"),
    ],
)
async def test_what_can_be_told_at_once_refuses_the_command(desk, options, error):
    assert await desk.say("blockdev-create", job_id="c", options=options) == error
    assert desk.heard == [f"error: {error}"]


async def test_image_is_not_written_to_while_its_file_is_drained(desk):
    disk = desk.disk("f", b"x" * 1024)
    options = {"driver": "qcow2", "file": "f", "size": 1 << 20}
    async with drained(desk.graph.find("f")):
        assert await desk.say("blockdev-create", job_id="c", options=options) == {}
        await desk.take()
        assert disk.log == []
    await desk.until("c concluded")
    assert disk.data[:4] == b"QFI\xfb"
    await desk.say("job-dismiss", id="c")
