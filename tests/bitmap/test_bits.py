import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from qmpfleece.base.units import GIB, KIB, MIB, TIB
from qmpfleece.bitmap.bits import GranularBits


class BitsAgainstSets(RuleBasedStateMachine):
    """Every operation against a plain set of granule numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.bits = GranularBits(0, 512)
        self.model: set[int] = set()

    @initialize(
        granularity=st.sampled_from([512, 4096, 65536]),
        granules=st.integers(1, 300),
        short=st.integers(0, 511),
        base=st.sampled_from([0, 16 * TIB]),
    )
    def start(self, granularity, granules, short, base):
        # With base the tests play in the last granules of a huge bitmap.
        if base:
            granularity = 65536 * 64
        self.granularity = granularity
        self.length = max(base + granules * granularity - short, 1)
        self.low = base // granularity
        self.bits = GranularBits(self.length, granularity)

    def span(self, data):
        low = self.low * self.granularity
        offset = data.draw(st.integers(low, self.length - 1))
        length = data.draw(st.integers(1, self.length - offset))
        return offset, length

    def granules(self, offset, length):
        return range(offset // self.granularity, (offset + length - 1) // self.granularity + 1)

    @rule(data=st.data())
    def set_range(self, data):
        offset, length = self.span(data)
        self.bits.set(offset, length)
        self.model.update(self.granules(offset, length))

    @rule(data=st.data())
    def reset_range(self, data):
        offset, length = self.span(data)
        self.bits.reset(offset, length)
        for granule in self.granules(offset, length):
            start = granule * self.granularity
            end = min(start + self.granularity, self.length)
            if offset <= start and end <= offset + length:
                self.model.discard(granule)

    @rule(data=st.data())
    def reset_what_a_range_touches(self, data):
        offset, length = self.span(data)
        self.bits.reset_touched(offset, length)
        self.model.difference_update(self.granules(offset, length))

    @rule()
    def clear(self):
        self.bits.clear()
        self.model.clear()

    @rule(short=st.integers(1, 20000))
    def shrink_and_grow_again(self, short):
        smaller = max(self.length - short, self.low * self.granularity + 1)
        self.bits.resize(smaller)
        self.bits.resize(self.length)
        self.model = {g for g in self.model if g * self.granularity < smaller}

    @rule(data=st.data())
    def ask(self, data):
        offset, length = self.span(data)
        inside = [g in self.model for g in self.granules(offset, length)]
        assert self.bits.any(offset, length) == any(inside)
        assert self.bits.all(offset, length) == all(inside)
        assert self.bits.get(offset) == inside[0]
        assert self.bits.run(offset, length) == (inside[0], self.run(offset, length))
        assert self.bits.state(offset, length) == (inside[0] if len(set(inside)) == 1 else None)
        for value, find in ((True, self.bits.next_dirty), (False, self.bits.next_clear)):
            expected = None
            for granule in self.granules(offset, length):
                if (granule in self.model) == value:
                    start = max(granule * self.granularity, offset)
                    expected = (start, self.run(start, offset + length - start))
                    break
            assert find(offset, length) == expected

    @rule(data=st.data())
    def take(self, data):
        offset, length = self.span(data)
        limit = data.draw(st.integers(1, 2 * self.granularity))
        expected = self.bits.next_dirty(offset, length)
        got = self.bits.take(offset, offset + length, limit)
        if expected is None:
            assert got is None
        else:
            assert got == (expected[0], min(expected[1], limit))
            self.model.difference_update(self.granules(*got))

    def run(self, offset, length):
        state = offset // self.granularity in self.model
        for granule in self.granules(offset, length):
            if (granule in self.model) != state:
                return granule * self.granularity - offset
        return length

    @invariant()
    def same_content(self):
        assert self.bits.count == len(self.model) * self.bits.granularity
        seen = [g for start, length in self.bits.areas() for g in self.granules(start, length)]
        assert seen == sorted(self.model)

    @rule()
    def serialised_form_holds_everything(self):
        twin = GranularBits(self.length, self.bits.granularity)
        size = self.bits.serialised_size
        for first in range(0, size, max(size // 3, 1)):
            twin.deserialise(
                self.bits.serialise(first, min(max(size // 3, 1), size - first)), first
            )
        assert twin == self.bits
        assert twin.count == self.bits.count

    @rule(data=st.data())
    def part_is_a_copy_of_what_a_range_touches(self, data):
        offset, length = self.span(data)
        part, start = self.bits.part(offset, length)
        granules = self.granules(offset, length)
        assert start == granules[0] * self.granularity
        assert part.length == offset + length - start
        got = [part.get(index * self.granularity) for index in range(len(granules))]
        assert got == [granule in self.model for granule in granules]
        assert part.count == sum(got) * self.granularity
        part.clear()
        assert self.bits.count == len(self.model) * self.granularity

    @rule()
    def copy_is_equal_and_independent(self):
        twin = self.bits.copy()
        assert twin == self.bits
        assert twin.count == self.bits.count
        twin.set_all()
        assert twin.count == -(-self.length // self.bits.granularity) * self.bits.granularity


TestBitsAgainstSets = BitsAgainstSets.TestCase
TestBitsAgainstSets.settings = settings(max_examples=60, stateful_step_count=20)

RANGES = st.lists(st.tuples(st.integers(0, 2**24 - 1), st.integers(1, 2**18)), max_size=12)


@patch("qmpfleece.bitmap.bits._SPAN", 512)  # so that some are empty and others are not
@patch("qmpfleece.bitmap.bits._LARGE", 4096)  # so that some lie in memory of their own
@given(
    target=st.sampled_from([512, 4096, 65536, 2 * MIB]),
    source=st.sampled_from([512, 4096, 65536, 2 * MIB]),
    ours=RANGES,
    theirs=RANGES,
    length=st.integers(16 * MIB, 17 * MIB),
)
@settings(max_examples=80)
def test_merge_between_any_granularities_is_setting_every_area(
    target, source, ours, theirs, length
):
    bits, other = GranularBits(length, target), GranularBits(length, source)
    expected = GranularBits(length, target)
    for offset, size in ours:
        bits.set(offset, min(size, length - offset))
        expected.set(offset, min(size, length - offset))
    for offset, size in theirs:
        other.set(offset, min(size, length - offset))
    twin = bits.copy()
    assert twin == bits
    assert twin.count == bits.count
    for offset, size in other.areas():
        expected.set(offset, size)
    bits.merge(other)
    assert bits == expected
    assert bits.count == expected.count


@pytest.mark.parametrize("length", [MIB, 5 * GIB])
def test_what_is_merged_into_an_empty_bitmap_stays_when_its_source_changes(length):
    bits, other = GranularBits(length, 512), GranularBits(length, 512)
    for offset in range(0, length, MIB):
        other.set(offset, 512)
    bits.merge(other)
    bits.set(512, 512)
    other.set(1024, 512)
    assert bits.count == other.count
    assert list(bits.areas(0, 2048)) == [(0, 1024)]
    assert list(other.areas(0, 2048)) == [(0, 512), (1024, 512)]


@pytest.mark.parametrize(("target", "source"), [(64 * KIB, 512), (512, 64 * KIB)])
def test_merge_of_full_bitmaps_fills_to_the_last_short_granule(target, source):
    length = 64 * MIB + 1
    bits, other = GranularBits(length, target), GranularBits(length, source)
    other.set_all()
    bits.merge(other)
    assert bits.all(0, length)
    assert bits.count == -(-length // target) * target


def test_last_granule_counts_whole_and_is_reset_by_its_short_rest():
    bits = GranularBits(4097, 4096)
    bits.set(4096, 1)
    assert bits.count == 4096
    bits.reset(4096, 1)
    assert bits.count == 0


def test_16_tib_at_fine_granularity_is_searched_at_once():
    bits = GranularBits(16 * TIB, 64 * KIB)
    bits.set(16 * TIB - 1, 1)
    assert bits.next_dirty(0, 16 * TIB) == (16 * TIB - 64 * KIB, 64 * KIB)
    assert bits.take(5, 16 * TIB, 512) == (16 * TIB - 64 * KIB, 512)
    assert bits.count == 0
    bits.set_all()
    assert bits.count == 16 * TIB
    assert bits.next_clear(0, 16 * TIB) is None
    bits.reset(8 * TIB, 64 * KIB)
    assert bits.run(0, 16 * TIB) == (True, 8 * TIB)


def test_serialised_form_is_little_endian_words():
    bits = GranularBits(512 * 65, 512)
    bits.set(512, 1)
    bits.set(512 * 64, 1)
    assert bits.serialise() == b"\x02" + bytes(7) + b"\x01" + bytes(7)
    assert bits.sha256() == hashlib.sha256(bits.serialise()).hexdigest()


def test_empty_node_still_has_one_word():
    bits = GranularBits(0, 65536)
    assert bits.serialise() == bytes(8)
    assert list(bits.areas()) == []
    assert bits.next_dirty(0, 0) is None


def test_deserialise_drops_bits_behind_the_end_and_refuses_too_much():
    bits = GranularBits(512 * 3, 512)
    bits.deserialise(b"\xff")
    assert bits.count == 512 * 3
    assert bits.serialise() == b"\x07" + bytes(7)
    with pytest.raises(ValueError, match="too long"):
        bits.deserialise(bytes(9))


class RealQsd:
    """The real qemu-storage-daemon with one monitor."""

    def __init__(self, folder) -> None:
        self.path = str(folder / "qmp")
        self.process = subprocess.Popen(
            [
                "qemu-storage-daemon",
                *("--chardev", f"socket,id=c,path={self.path},server=on,wait=off"),
                *("--monitor", "c"),
                *("--pidfile", self.path + ".pid"),
            ]
        )
        # Before it has set up its monitor it forgets what a client says.
        deadline = time.monotonic() + 20
        while not os.path.exists(self.path + ".pid") and time.monotonic() < deadline:
            pass
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(self.path)
        self.stream = self.socket.makefile("rw")
        self.stream.readline()
        self.run("qmp_capabilities", {})

    def run(self, command, arguments):
        wire = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.stream.write(json.dumps({"execute": command, "arguments": wire}) + "\n")
        self.stream.flush()
        while "event" in (reply := json.loads(self.stream.readline())):
            pass
        return reply["return"]

    def close(self):
        self.stream.close()
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)


@pytest.mark.oracle
@pytest.mark.skipif(not shutil.which("qemu-storage-daemon"), reason="needs QEMU")
@pytest.mark.parametrize("length", [4 * GIB + 512, 512, 1536])
def test_sha256_equals_that_of_the_real_daemon_for_the_same_writes(tmp_path, length):
    writes = [(0, 512), (3 * GIB + 7680, 70000), (4 * GIB, 512), (1 * GIB, 3 * MIB), (512, 1024)]
    writes = [(offset, size) for offset, size in writes if offset + size <= length]
    qsd = RealQsd(tmp_path)
    try:
        qsd.run("blockdev-add", {"driver": "null-co", "node_name": "n", "size": length})
        for name, granularity in (("a", 512), ("b", 65536)):
            qsd.run(
                "block-dirty-bitmap-add", {"node": "n", "name": name, "granularity": granularity}
            )
        address = {"type": "unix", "data": {"path": str(tmp_path / "nbd")}}
        qsd.run("nbd-server-start", {"addr": address})
        qsd.run("block-export-add", {"type": "nbd", "id": "e", "node_name": "n", "writable": True})
        commands = [part for offset, size in writes for part in ("-c", f"write {offset} {size}")]
        uri = f"nbd+unix:///n?socket={tmp_path / 'nbd'}"
        subprocess.run(
            ["qemu-io", "-f", "raw", *commands, uri], check=True, stdout=subprocess.DEVNULL
        )
        for name, granularity in (("a", 512), ("b", 65536)):
            bits = GranularBits(length, granularity)
            for offset, size in writes:
                bits.set(offset, size)
            real = qsd.run("x-debug-block-dirty-bitmap-sha256", {"node": "n", "name": name})
            assert bits.sha256() == real["sha256"]
    finally:
        qsd.close()


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def test_bits_that_nobody_sets_take_no_memory():
    before = resident_bytes()
    bits = GranularBits(16 * TIB, 512)
    bits.set(9 * TIB, 512)
    assert bits.serialised_size == 4 * GIB
    assert resident_bytes() - before < 64 * MIB


@pytest.mark.parametrize("length", [3 * GIB, 5 * GIB, 64 * GIB])
@pytest.mark.parametrize("new", [3 * GIB + 512, 5 * GIB + 512, 64 * GIB + 512])
def test_resizing_keeps_what_is_set_however_large(length, new):
    bits = GranularBits(length, 512)
    bits.set(2 * GIB, 1024)
    bits.set(length - 512, 512)
    bits.resize(new)
    kept = [(2 * GIB, 1024)] + [(length - 512, 512)] * (length <= new)
    assert list(bits.areas()) == kept
    assert bits.count == sum(size for _, size in kept)
    bits.set(new - 512, 512)
    bits.clear()
    assert list(bits.areas()) == []
    assert bits.count == 0
