"""Movers: what is read is sent whole and in order, or it is told how far it came."""

import asyncio
import ctypes
import errno
import os
import random
import socket
import threading
from contextlib import suppress

import pytest

from qmpfleece.base.uring import mover as uring_mover
from qmpfleece.base.uring.mover import Mover, Movers, Run
from qmpfleece.base.workers import Workers
from tests.tools.until import until
from tests.tools.uring import needs_uring

pytestmark = needs_uring

DATA = random.Random(3).randbytes(1 << 20)
HEADER = b"head"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    number = os.open(tmp_path / "file", os.O_RDONLY)
    os.pread(number, len(DATA), 0)
    yield number
    os.close(number)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
async def mover():
    made = Mover()
    yield made
    made.close()


class Replies:
    """Replies that a mover makes, and what it says of them."""

    def __init__(self, mover, sock) -> None:
        self.mover = mover
        self.sock = sock
        self.memory = []
        self.results = {}

    def add(self, *runs: Run):
        number = len(self.memory)
        memory = bytearray(HEADER + bytes(sum(length for _, _, length in runs)))
        self.memory.append(memory)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        told = self.results.__setitem__
        return self.mover.add(
            runs, self.sock.fileno(), address, len(HEADER), lambda result: told(number, result)
        )

    async def made(self):
        self.mover.go()
        await until(lambda: len(self.results) == len(self.memory))
        return [self.results[number] for number in range(len(self.memory))]


async def received(sock, count):
    got = bytearray()
    while len(got) < count:
        got += await asyncio.get_running_loop().sock_recv(sock, count - len(got))
    return bytes(got)


async def test_replies_are_sent_whole_and_in_order(mover, file, pair):
    ours, theirs = pair
    replies = Replies(mover, ours)
    assert replies.add((file, 5, 10_000))
    assert replies.add((file, 300_000, 7), (file, 4096, 20_000), (file, 0, 1))
    assert await replies.made() == [10_004, 20_012]
    expected = HEADER + DATA[5:10_005] + HEADER + DATA[300_000:300_007]
    expected += DATA[4096:24_096] + DATA[:1]
    assert await received(theirs, len(expected)) == expected


async def test_one_batch_after_the_other_more_often_than_the_queue_has_entries(mover, file, pair):
    ours, theirs = pair
    for number in range(uring_mover._ENTRIES):
        replies = Replies(mover, ours)
        assert replies.add((file, number, 100))
        assert replies.add((file, number + 1, 100))
        assert await replies.made() == [104, 104]
        parts = [HEADER + DATA[start : start + 100] for start in (number, number + 1)]
        assert await received(theirs, 208) == b"".join(parts)


async def test_where_fewer_bytes_are_there_nothing_is_sent_nor_what_follows(mover, file, pair):
    ours, theirs = pair
    replies = Replies(mover, ours)
    replies.add((file, 0, 50))
    replies.add((file, 0, 50), (file, len(DATA) - 10, 20))
    replies.add((file, 0, 50))
    assert await replies.made() == [54, -errno.ECANCELED, -errno.ECANCELED]
    assert await received(theirs, 54) == HEADER + DATA[:50]
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


async def test_a_full_socket_takes_a_part_and_nothing_that_follows(mover, file, pair):
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
    replies = Replies(mover, ours)
    replies.add((file, 0, 1 << 20))
    replies.add((file, 0, 10))
    first, second = await replies.made()
    assert 0 < first < 1 << 20
    assert second == -errno.ECANCELED
    assert await received(theirs, first) == (HEADER + DATA)[:first]
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


async def test_a_socket_without_any_room_takes_nothing(mover, file, pair):
    ours, _ = pair
    with suppress(BlockingIOError):
        while True:
            ours.send(bytes(1 << 16))
    replies = Replies(mover, ours)
    replies.add((file, 0, 4096))
    assert await replies.made() == [-errno.EAGAIN]
    assert replies.memory[0] == HEADER + DATA[:4096]


async def test_a_client_that_is_gone_is_an_error_and_no_signal(mover, file, pair):
    ours, theirs = pair
    theirs.close()
    replies = Replies(mover, ours)
    replies.add((file, 0, 4096))
    assert await replies.made() == [-errno.EPIPE]


async def test_what_exceeds_the_queue_is_not_taken_until_there_is_room(mover, file, pair):
    ours, theirs = pair
    replies = Replies(mover, ours)
    runs = [(file, place, 1) for place in range(50)]
    taken = 0
    while replies.add(*runs):
        taken += 1
    replies.memory.pop()
    assert taken == uring_mover._ENTRIES // 51
    assert await replies.made() == [54] * taken
    assert await received(theirs, 54 * taken) == (HEADER + DATA[:50]) * taken
    again = Replies(mover, ours)
    assert again.add(*runs)
    assert await again.made() == [54]


async def test_a_chain_that_the_kernel_takes_in_part_is_not_continued(
    mover, file, pair, monkeypatch
):
    """It would end the chain there, so what follows would not wait for what precedes."""
    ours, theirs = pair
    whole = mover._queues.enter
    monkeypatch.setattr(mover._queues, "enter", lambda count: whole(min(count, 3)))
    replies = Replies(mover, ours)
    for place in (0, 10, 20):
        replies.add((file, place, 10))
    first, *others = await replies.made()
    assert first == 14
    assert all(result < 0 and result != -errno.EAGAIN for result in others)
    assert await received(theirs, 14) == HEADER + DATA[:10]
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


async def test_a_bug_in_who_is_told_harms_no_other(mover, file, pair, caplog):
    ours, theirs = pair
    replies = Replies(mover, ours)
    memory = bytearray(100)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    mover.add([(file, 0, 96)], ours.fileno(), address, 4, lambda result: 1 / 0)
    replies.add((file, 0, 10))
    assert await replies.made() == [14]
    assert "a large reply went wrong" in caplog.text
    assert len(await received(theirs, 114)) == 114


async def test_movers_take_turns_and_leave_nothing_behind():
    files, threads = os.listdir("/proc/self/fd"), threading.active_count()
    movers = Movers()
    assert len({movers.one() for _ in range(20)}) == threading.active_count() - threads > 1
    movers.close()
    assert os.listdir("/proc/self/fd") == files
    assert threading.active_count() == threads


async def test_with_one_processor_there_are_no_movers(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    workers = Workers()
    assert workers.movers is None
    workers.close()


async def test_without_threads_there_are_no_movers_and_nothing_is_left(monkeypatch):
    files = os.listdir("/proc/self/fd")

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    workers = Workers()
    assert workers.movers is None
    workers.close()
    assert os.listdir("/proc/self/fd") == files


async def test_where_a_chain_goes_on_after_half_a_reply_there_are_no_movers(monkeypatch):
    files = os.listdir("/proc/self/fd")
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL  # then the kernel is content with a part
    monkeypatch.setattr(uring_mover, "_SEND_FLAGS", flags)
    workers = Workers()
    assert workers.movers is None
    workers.close()
    assert os.listdir("/proc/self/fd") == files


async def test_workers_have_movers_and_close_them():
    workers = Workers()
    assert workers.movers is not None
    assert workers.movers is workers.movers
    workers.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "mover"]
