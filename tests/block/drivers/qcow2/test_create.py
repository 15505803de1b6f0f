"""What we create is what qemu-img creates."""

import json

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.base.workers import Workers
from qmpfleece.block.backend import Backend
from qmpfleece.block.drivers.qcow2.create import Qcow2CreateOptions, create
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.disk import check, content, opened, qemu_img

MIB = 1 << 20


class Creator:
    """Makes an image in file nodes."""

    async def make(self, path, data_path, options):
        workers = Workers()
        graph = Graph(workers)
        try:
            users = []
            for name in filter(None, (path, data_path)):
                name.touch()
                node = await graph.add(
                    validate_blockdev(
                        {"driver": "file", "filename": str(name), "node-name": name.stem}
                    )
                )
                user = Backend(graph, perm=Perm.WRITE | Perm.RESIZE)
                user.attach(node)
                users.append(user)
            if data_path:
                options = options | {"data_file": data_path.stem}
            given = Qcow2CreateOptions(driver="qcow2", file=path.stem, **options)
            data = users[1] if data_path else None
            try:
                await create(users[0], given, data=data, data_name=str(data_path or ""))
            finally:
                for user in users:
                    await user.detach()
        finally:
            await graph.close()
            workers.close()


CASES = {
    "defaults": {},
    "empty": {"size": 0},
    "large": {"size": 10 << 40},
    "clusters of 512 bytes": {"cluster_size": 512, "refcount_bits": 64},
    "clusters of 2 MiB": {"cluster_size": 2 * MIB, "refcount_bits": 1},
    "version 2": {"version": "v2"},
    "backing": {"backing_file": "base.raw", "backing_fmt": "raw"},
    "subclusters": {"extended_l2": True, "lazy_refcounts": True, "compression_type": "zstd"},
    "metadata": {"preallocation": "metadata"},
    "metadata and subclusters": {"preallocation": "metadata", "extended_l2": True},
    "falloc": {"preallocation": "falloc"},
    "full": {"preallocation": "full", "cluster_size": 4096},
    "data file": {"data": True},
    "raw data file": {"data": True, "data_file_raw": True},
}


def create_by_qemu(path, options, data_path):
    words = [f"{name}={str(value).lower()}" for name, value in options.items()]
    words = [word.replace("version=", "compat=").replace("=true", "=on") for word in words]
    if data_path:
        words.append(f"data_file={data_path}")
    size = next(word for word in words if word.startswith("size="))[5:]
    words = [word for word in words if not word.startswith("size=")]
    given = ["-o", ",".join(words)] if words else []
    qemu_img("create", "-q", "-f", "qcow2", *given, path, size)


def info(path):
    found = json.loads(qemu_img("info", "--output=json", path))
    for name in ("filename", "actual-size", "full-backing-filename"):
        found.pop(name, None)
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_created_image_is_like_qemus(tmp_path, case):
    options = {"size": 5 * MIB + 512} | case
    (tmp_path / "base.raw").write_bytes(bytes(MIB))
    data = tmp_path / "data.raw" if options.pop("data", False) else None
    theirs, ours = tmp_path / "theirs.qcow2", tmp_path / "ours.qcow2"
    create_by_qemu(theirs, options, data)
    if data:
        data.unlink()
    await Creator().make(ours, data, options)
    assert info(ours) == info(theirs)
    check(ours)
    # The header, its extensions and the backing file's name, but for places of tables.
    first, second = ours.read_bytes()[:512], theirs.read_bytes()[:512]
    assert (first[:40], first[72:]) == (second[:40], second[72:])
    if 0 < options["size"] < 1 << 30:
        # Not where more refcount blocks are needed, or half a cluster of subclusters.
        if "cluster_size" not in options and "extended_l2" not in options:
            assert ours.stat().st_size == theirs.stat().st_size
        files = {"data_file": {"driver": "file", "filename": str(data)}} if data else {}
        async with opened(ours, **files) as disk:
            await disk.write(MIB, b"x" * 4096)
            whole = await disk.read()
        check(ours)
        tool = f"driver=qcow2,file.filename={ours},data-file.driver=file,data-file.filename={data}"
        assert content(ours, tmp_path, tool if data else "") == whole
        assert whole.count(b"x") == 4096
        assert whole.count(0) == len(whole) - 4096


REFUSED = {
    "Image size must be a multiple of 512 bytes": {"size": 513},
    "Cluster size must be a power of two between 512 and 2048k": {"cluster_size": 3 * 512},
    "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes": {
        "extended_l2": True,
        "cluster_size": 8192,
    },
    "Backing format cannot be used without backing file": {"backing_fmt": "raw"},
    "Refcount width must be a power of two and may not exceed 64 bits": {"refcount_bits": 7},
    "data-file-raw requires data-file": {"data_file_raw": True},
    "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or"
    " greater)": {"version": "v2", "lazy_refcounts": True},
}


@pytest.mark.parametrize("text", REFUSED)
async def test_impossible_image_is_refused_as_by_qemu(tmp_path, text):
    with pytest.raises(QmpError) as refusal:
        await Creator().make(tmp_path / "a.qcow2", None, {"size": MIB} | REFUSED[text])
    assert refusal.value.desc == text
