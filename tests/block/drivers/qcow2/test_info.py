"""What is told about an image equals what qemu-storage-daemon tells."""

import json
from itertools import count

import pytest

from qmpfleece.control.describe import device_info
from tests.tools.disk import opened, qemu_img
from tests.tools.failing import Failing
from tests.tools.programs import replies_of_qemu

# Node name, and what depends on when it is asked.
VOLATILE = ("actual-size",)

IMAGES = {
    "plain": ([], {}),
    "version 2": (["-o", "compat=v2"], {}),
    "everything": (
        ["-o", "compression_type=zstd,lazy_refcounts=on,extended_l2=on,refcount_bits=1"],
        {},
    ),
    "backing": (["-b", "base.qcow2", "-F", "qcow2"], {}),
    "backing null": (["-b", "base.qcow2", "-F", "qcow2"], {"backing": None}),
    "no backing, null": ([], {"backing": None}),
    "data file": (
        ["-o", "data_file=data.raw,data_file_raw=on"],
        {"data-file": {"driver": "file", "filename": "data.raw"}},
    ),
    "read-only": ([], {"read-only": True}),
}


def told_by_qemu(blockdev, folder):
    monitor = ("--chardev", "stdio,id=m", "--monitor", "m")
    program = ("qemu-storage-daemon", "--blockdev", json.dumps(blockdev), *monitor)
    (reply,) = replies_of_qemu(program, "query-named-block-nodes", folder=folder)
    nodes = reply["return"]
    return next(node for node in nodes if node["node-name"] == "disk")


def drop_volatile(info):
    for name in VOLATILE:
        info.pop(name)
    if "backing-image" in info:
        drop_volatile(info["backing-image"])


@pytest.mark.parametrize(("options", "node"), IMAGES.values(), ids=IMAGES)
async def test_info_equals_qemus(tmp_path, monkeypatch, options, node):
    monkeypatch.chdir(tmp_path)
    qemu_img("create", "-q", "-f", "qcow2", "base.qcow2", "1M")
    qemu_img("create", "-q", "-f", "qcow2", *options, "a.qcow2", "2M")
    if "data-file" not in node:
        qemu_img("snapshot", "-c", "first", "a.qcow2")
    if "compat=v2" not in options and not node:
        qemu_img("bitmap", "--add", "a.qcow2", "b")
    blockdev = {"driver": "qcow2", "node-name": "disk"}
    blockdev |= {"file": {"driver": "file", "filename": "a.qcow2"}} | node
    expected = told_by_qemu(blockdev, tmp_path)
    given = {name.replace("-", "_"): value for name, value in blockdev.items()}
    async with opened(tmp_path / "a.qcow2", **given) as disk:
        ours = await device_info(disk.node, flat=False)
    drop_volatile(ours["image"])
    drop_volatile(expected["image"])
    assert ours == expected


@pytest.mark.parametrize("landed", [False, True])
async def test_image_whose_header_fails_to_be_written_names_its_old_backing_file(tmp_path, landed):
    image = tmp_path / "a.qcow2"
    for name in ("base", "other"):
        qemu_img("create", "-q", "-f", "qcow2", tmp_path / name, "1M")
    for number in count():
        qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", image, "1M")
        failing, failed = Failing(number, 2, landed=landed), False
        async with opened(image) as disk:
            failing.begin(disk.node.children["file"].node.driver)
            try:
                await disk.driver.change_backing("other", "qcow2")
            except OSError:
                failed = True
            failing.end()
        told = json.loads(qemu_img("info", "--output=json", image))
        assert told["backing-filename"] == ("base" if failed else "other")
        if not failing.reached:
            break
    assert number
