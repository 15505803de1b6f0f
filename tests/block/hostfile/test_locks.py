"""Lock bytes: ours and QEMU's, seen by the other."""

import os
import subprocess

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block.hostfile import locks
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.hostfile import (
    add_file,
    locked_bytes,
    needs_qemu,
    qemu_holds,
    qemu_io,
)
from tests.tools.memory import hold

R, W, U, Z, ALL = Perm.CONSISTENT_READ, Perm.WRITE, Perm.WRITE_UNCHANGED, Perm.RESIZE, Perm.ALL


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(b"x" * 65536)
    return path


def make_qcow2(path):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)


@pytest.fixture
def files(image):
    """Two open file descriptions of one file."""
    pair = [os.open(image, os.O_RDWR) for _ in range(2)]
    yield pair
    for fd in pair:
        os.close(fd)


def test_each_permission_has_its_bytes(image, files):
    locks.apply(files[0], R | Z, ALL & ~(W | U), drop=False)
    assert locked_bytes(image) == {100, 103, 201, 202}
    locks.apply(files[0], W, ALL, drop=False)
    assert locked_bytes(image) == {100, 101, 103, 201, 202}
    locks.apply(files[0], W, ALL & ~R, drop=True)
    assert locked_bytes(image) == {101, 200}
    locks.apply(files[0], Perm.NONE, ALL, drop=True)
    assert locked_bytes(image) == set()


@pytest.mark.parametrize(
    ("held", "unshared", "perm", "denied", "message"),
    [
        (W, W, W, Perm.NONE, 'Failed to get "write" lock'),
        (R, R, R, Perm.NONE, 'Failed to get "consistent read" lock'),
        (R, Z, Z, Perm.NONE, 'Failed to get "resize" lock'),
        (R, U, U, Perm.NONE, 'Failed to get "write unchanged" lock'),
        (W, Perm.NONE, R, W, 'Failed to get shared "write" lock'),
        (Z, Perm.NONE, R, Z, 'Failed to get shared "resize" lock'),
        # What we need is looked at before what we don't share.
        (W, Z, Z, W, 'Failed to get "resize" lock'),
    ],
)
def test_conflict_names_the_permission(files, held, unshared, perm, denied, message):
    locks.apply(files[0], held, ALL & ~unshared, drop=False)
    with pytest.raises(QmpError, match=message):
        locks.check(files[1], perm, ALL & ~denied)
    locks.apply(files[0], Perm.NONE, ALL, drop=True)
    locks.check(files[1], perm, ALL & ~denied)


def test_ones_own_bytes_are_no_conflict(files):
    locks.apply(files[0], W | R, ALL & ~W, drop=False)
    locks.check(files[0], W | R, ALL & ~W)


def test_closing_gives_everything_back(image):
    fd = os.open(image, os.O_RDWR)
    locks.apply(fd, ALL, Perm.NONE, drop=False)
    os.close(fd)
    assert locked_bytes(image) == set()


# -- as a part of the file driver -------------------------------------------------------------


async def test_node_locks_what_its_users_hold_and_no_more(graph, image):
    node = await add_file(graph, image)
    assert locked_bytes(image) == set()
    writer = hold(graph, node, R | W, ALL & ~Z)
    assert locked_bytes(image) == {100, 101, 203}
    reader = hold(graph, node, R, ALL)
    graph.detach(writer)
    assert locked_bytes(image) == {100}
    graph.detach(reader)
    assert locked_bytes(image) == set()


async def test_no_locks_where_none_are_wanted(graph, image):
    node = await add_file(graph, image, locking="off")
    hold(graph, node, R, Perm.NONE)
    assert locked_bytes(image) == set()


async def test_two_nodes_on_one_file_conflict_like_two_processes(graph, image):
    first = await add_file(graph, image)
    second = await add_file(graph, image, "second")
    edge = hold(graph, first, R | W, R)
    with pytest.raises(QmpError, match='Failed to get "write" lock'):
        hold(graph, second, R | W, ALL)
    with pytest.raises(QmpError, match='Failed to get shared "write" lock'):
        hold(graph, second, R, R)
    assert second.parents == []
    assert locked_bytes(image) == {100, 101, 201, 202, 203}
    graph.detach(edge)
    hold(graph, second, R | W, ALL)


async def test_refused_user_leaves_the_locks_of_the_others_as_they_were(graph, image):
    other = await add_file(graph, image, "other")
    hold(graph, other, R, ALL & ~W)
    node = await add_file(graph, image)
    hold(graph, node, R, ALL & ~Z)
    before = locked_bytes(image)
    with pytest.raises(QmpError, match='Failed to get "write" lock'):
        hold(graph, node, R | W, ALL & ~U)
    assert locked_bytes(image) == before
    assert node.users_perm() == (R, ALL & ~Z)


async def test_giving_back_never_fails_whatever_others_hold(graph, image):
    node = await add_file(graph, image)
    edges = [hold(graph, node, R | W, ALL), hold(graph, node, R | W, ALL)]
    rude = os.open(image, os.O_RDWR)  # takes bytes without asking
    locks.apply(rude, ALL, Perm.NONE, drop=False)
    graph.detach(edges[0])
    graph.detach(edges[1])
    os.close(rude)
    assert locked_bytes(image) == set()


# -- with QEMU as the other user --------------------------------------------------------------


@needs_qemu
async def test_qemu_refuses_an_image_that_we_hold_for_writing(graph, image):
    node = await add_file(graph, image)
    edge = hold(graph, node, R | W | Z, R)
    assert 'Failed to get "write" lock' in qemu_io(image, "write 0 1k")
    assert "read 1024/1024" in qemu_io(image, "read 0 1k", options="-f raw -r -U")
    graph.detach(edge)
    assert "wrote 1024/1024" in qemu_io(image, "write 0 1k")


@needs_qemu
async def test_we_refuse_an_image_that_qemu_holds_for_writing(graph, tmp_path):
    image = tmp_path / "image"
    make_qcow2(image)
    with qemu_holds("--blockdev", f"qcow2,node-name=q,file.driver=file,file.filename={image}"):
        held = locked_bytes(image)
        assert held == {100, 101, 103, 201, 203}
        node = await add_file(graph, image)
        with pytest.raises(QmpError, match='Failed to get "write" lock'):
            hold(graph, node, R | W, ALL)
        with pytest.raises(QmpError, match='Failed to get shared "write" lock'):
            hold(graph, node, R, ALL & ~W)
        hold(graph, node, R, ALL)
        assert locked_bytes(image) == held
        unlocked = await add_file(graph, image, "unlocked", locking="off")
        hold(graph, unlocked, R | W, R)


@needs_qemu
async def test_shared_by_force_still_says_what_it_needs(graph, tmp_path):
    image = tmp_path / "image"
    make_qcow2(image)
    options = "read-only=on,force-share=on"
    with qemu_holds(
        "--blockdev", f"qcow2,node-name=q,{options},file.driver=file,file.filename={image}"
    ):
        assert locked_bytes(image) == {100}
    definition = {"driver": "qcow2", "node-name": "q", "read-only": True, "force-share": True}
    definition["file"] = {"driver": "file", "filename": str(image)}
    await graph.add(validate_blockdev(definition))
    assert locked_bytes(image) == {100}


@needs_qemu
async def test_a_window_and_a_whole_raw_image_hold_the_bytes_that_qemus_do(graph, image):
    for number, window in enumerate(("", "size=512", "offset=512")):
        with qemu_holds(
            "--blockdev", f"file,node-name=f,filename={image}", "--blockdev",
            "raw,node-name=r,file=f" + (f",{window}" if window else ""),
        ):  # fmt: skip
            expected = locked_bytes(image)
        options = {"driver": "raw", "node-name": f"r{number}", "file": {"driver": "file"}}
        options["file"]["filename"] = str(image)
        if window:
            key, _, value = window.partition("=")
            options[key] = int(value)
        await graph.add(validate_blockdev(options))
        assert locked_bytes(image) == expected
        await graph.delete(f"r{number}")
