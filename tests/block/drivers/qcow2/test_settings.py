"""Options that decide how an image is opened; refusals are those of qemu-storage-daemon."""

import json
import subprocess

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block.drivers.qcow2 import overlap, settings
from qmpfleece.block.drivers.qcow2.header import Header
from qmpfleece.block.drivers.qcow2.options import Qcow2Options
from tests.tools.disk import check, content, opened, qemu_img

MIB, GIB = 1 << 20, 1 << 30
REFUSED = [
    {"cache-size": MIB, "l2-cache-size": MIB, "refcount-cache-size": MIB},
    {"cache-size": MIB, "l2-cache-size": 2 * MIB},
    {"cache-size": MIB, "refcount-cache-size": 2 * MIB},
    {"l2-cache-entry-size": 1000},
    {"l2-cache-entry-size": 256},
    {"l2-cache-entry-size": 128 * 1024},
    {"data-file": {"driver": "null-co"}},
    {"data-file": "nobody"},
    {"backing": "nobody"},
    {"backing": {"driver": "file", "filename": "/nobody"}},
    {"encrypt": {"format": "luks"}},
]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "64M")
    return path


def definition(image, options):
    file = {"driver": "file", "filename": str(image)}
    return {"driver": "qcow2", "node-name": "disk", "file": file} | options


@pytest.mark.parametrize("options", REFUSED)
async def test_options_are_refused_as_by_qemu(image, options):
    blockdev = json.dumps(definition(image, options))
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs here
        ["qemu-storage-daemon", "--blockdev", blockdev],
        capture_output=True,
        text=True,
        check=False,
    )
    given = {name.replace("-", "_"): value for name, value in options.items()}
    with pytest.raises(QmpError) as refusal:
        async with opened(image, **given):
            pass
    assert done.stderr.endswith(f": {refusal.value.desc}\n")


def parse(options):
    return Qcow2Options.model_validate({"driver": "qcow2", "file": "f"} | options)


def test_caches_are_as_large_as_the_disk_needs():
    small = settings.cache_sizes(parse({}), Header(size=1 << 30))
    assert small == (128 * 1024, 65536, 4 * 65536)
    large = settings.cache_sizes(parse({}), Header(size=1 << 50))
    assert large.l2 == 32 * MIB
    given = settings.cache_sizes(parse({"l2-cache-size": 3 * MIB}), Header(size=1 << 40))
    assert given.l2 == 3 * MIB
    both = settings.cache_sizes(parse({"cache-size": 4 * MIB}), Header(size=1 << 40))
    assert (both.l2, both.refcount) == (4 * MIB - 4 * 65536, 4 * 65536)


def test_overlap_checks_follow_template_and_flags():
    assert settings.overlap_kinds(parse({"overlap-check": "none"})) == frozenset()
    assert overlap.INACTIVE_L2 in settings.overlap_kinds(parse({"overlap-check": "all"}))
    flags = {"template": "constant", "active-l2": True, "main-header": False}
    assert settings.overlap_kinds(parse({"overlap-check": flags})) == {
        overlap.ACTIVE_L1,
        overlap.ACTIVE_L2,
        overlap.REFTABLE,
    }


async def test_smallest_caches_are_enough(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", image, "8M")
    sizes = {"l2_cache_size": 0, "refcount_cache_size": 0}
    async with opened(image, **sizes) as disk:
        for start in range(0, 8 * MIB, 300_000):
            await disk.write(start, b"x" * 1000)
        for start in range(0, 8 * MIB, 300_000):
            assert await disk.read(start, 1001 - start // (8 * MIB)) == b"x" * 1000 + b"\0"
        assert len(disk.driver.image.l2) <= 3
        assert len(disk.driver.image.blocks) <= 5
        await disk.reopen(image, **sizes)
        whole = await disk.read()
    check(image)
    assert content(image, tmp_path) == whole


@pytest.mark.parametrize("options", [{}, {"cache_size": 16 * MIB}])
async def test_caches_follow_the_size_of_the_disk(tmp_path, options):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, 0)

    def limits(disk):
        return disk.driver.image.l2.capacity, disk.driver.image.blocks.capacity

    found = []
    async with opened(image, **options) as disk:
        for size in (64 * GIB, GIB):
            await disk.resize(size)
            found.append(limits(disk))
            await disk.reopen(image, **options)
            assert limits(disk) == found[-1]
    assert found[0] != found[1]
