"""The memory in which replies are made: nothing is lost, mixed up, or used again too early."""

import errno
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.exports.nbd import client as nbd_client
from qmpfleece.exports.nbd.client import POOLED_READ, Client
from qmpfleece.nbdproto.buffers import BufferPool

SIZES = st.one_of(st.integers(1, POOLED_READ + 28), st.just(POOLED_READ))


class Poisoned(BufferPool):
    """A pool in which memory that was given back is worth nothing."""

    def _give(self, view):
        view[:] = b"\xdd" * len(view)
        super()._give(view)


def client():
    export = SimpleNamespace(
        backend=SimpleNamespace(accounting=None),
        info=SimpleNamespace(flags=0, size=0),
        writethrough=False,
        contexts={},
    )
    negotiated = SimpleNamespace(structured=True, contexts=[])
    return Client(export, negotiated, Poisoned())


@patch.object(nbd_client, "_SLAB", 2 * POOLED_READ)  # so that pages are turned often
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["keep", "detach", "drop"]), SIZES),
            st.tuples(st.sampled_from(["finish", "send", "sent"]), st.integers(0, 99)),
        ),
        max_size=120,
    )
)
def test_every_reply_is_sent_once_as_it_was_made(steps):
    box = client()
    number = 0
    expected, got = [], []
    apart = []  # detached: memory, buffer, content
    on_way = []  # handed to the socket: views and the buffers below

    def fill(view):
        nonlocal number
        number += 1
        content = (number.to_bytes(4, "big") * (len(view) // 4 + 1))[: len(view)]
        view[:] = content
        return content

    def flush():
        row = box.take_row()
        out = [*box.out, *([row] if row is not None else [])]
        box.out.clear()
        on_way.append((out, box.lent))
        box.lent = []

    def deliver():
        for out, lent in on_way:
            got.extend(bytes(view) for view in out)
            for buffer in lent:
                buffer.release()
        on_way.clear()

    for step, value in steps:
        if step in {"keep", "drop", "detach"}:
            view = box.room(value)
            content = fill(view)
            if step == "keep":
                expected.append(content)
                box.row_end += value
            elif step == "detach":
                expected.append(content)
                apart.append((view, box.detach(value), content))
        elif step == "finish" and apart:
            view, buffer, content = apart.pop(value % len(apart))
            view[:] = content  # the disk writes to it until now
            box.out.append(view)
            box.lent.append(buffer)
        elif step == "send":
            flush()
        elif step == "sent":
            deliver()
    for view, buffer, content in apart:
        view[:] = content
        box.out.append(view)
        box.lent.append(buffer)
    flush()
    deliver()
    box.close()
    sent = b"".join(got)
    assert len(sent) == sum(map(len, expected))
    assert all(content in sent for content in expected)


def test_memory_is_kept_for_a_slow_reply_though_there_was_no_more_for_the_next():
    box = client()
    pool = box._pool
    slow = box.detach(len(box.room(POOLED_READ)))
    while box.row_end + POOLED_READ <= nbd_client._SLAB:
        box.row_end += len(box.room(POOLED_READ))
    none = OSError(errno.ENOMEM, "Cannot allocate memory")
    with patch.object(pool, "take", side_effect=none), pytest.raises(OSError, match="memory"):
        box.room(POOLED_READ)
    box.room(POOLED_READ)
    box.release_lent()  # what was complete is sent
    assert not pool.kept
    slow.release()
    assert pool.kept
