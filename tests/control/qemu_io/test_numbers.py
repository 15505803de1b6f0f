"""Numbers are read as by the real qemu-io, and printed as it prints them."""

import re
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qmpfleece.base.errors import QmpError
from qmpfleece.control.qemu_io.numbers import dump, parse_pattern, parse_size, report, size_text
from tests.tools.programs import needs

#: As large as an image may be.
HUGE = 'json:{"driver": "null-co", "size": 9223372035781033984, "read-zeroes": true}'

decimal = st.integers(0, 1 << 65).map(str) | st.integers(0, 2000).map(str)
hexadecimal = st.integers(0, 1 << 65).map(hex) | st.integers(0, 1 << 65).map(lambda n: f"0X{n:X}")
fraction = st.tuples(st.integers(0, 3000), st.integers(0, 999)).map(lambda n: f"{n[0]}.{n[1]:03d}")
unit = st.sampled_from(["", "b", "B", "k", "K", "m", "M", "g", "G", "t", "T", "x", "kb", "1"])
sizes = st.tuples(decimal | fraction, unit).map("".join) | hexadecimal
garbage = st.text("0123456789xXkKMG.+abe", min_size=1, max_size=6)


def parsed(text):
    try:
        value = parse_size(text)
    except QmpError as error:
        return error.desc
    return value


def by_qemu(texts):
    """Return the offset that qemu-io understands, or what it says, for each text."""
    lines = [part for text in texts for part in ("-c", f"read {text} 0")]
    run = subprocess.run(
        ["qemu-io", *lines, HUGE], text=True, check=False, capture_output=True, timeout=30
    )
    found = []
    for row in run.stdout.splitlines():
        if match := re.match(r"read 0/0 bytes at offset (\d+)", row):
            found.append(int(match[1]))
        elif not row.startswith("0 bytes, 1 ops"):
            found.append(row)
    return found


@needs("qemu-io")
@settings(max_examples=25)
@given(st.lists(sizes | garbage, min_size=1, max_size=40))
@example(["18446744073709551616", "18446744073709551616k", "18446744073709551616.", "16E"])
@example(["1" * 4500, "1" * 4500 + "k", "0" * 4500 + "7", "1." + "0" * 4500, "0x" + "1" * 4500])
@example(["0x10000000000000000", "0x10000000000000000k", "18446744073709551615k"])
def test_sizes_are_understood_as_by_qemu_io(texts):
    ours = [parsed(text) for text in texts]
    for text, mine, theirs in zip(texts, ours, by_qemu(texts), strict=True):
        if theirs == "read failed: Input/output error":  # past the end of any image
            assert isinstance(mine, int), text
            assert mine > 9223372035781033984, text
        else:
            assert mine == theirs, text


@given(st.integers(0, 255))
def test_a_pattern_is_a_byte_in_any_base(value):
    assert parse_pattern(str(value)) == value
    assert parse_pattern(hex(value)) == value
    assert parse_pattern(f"0{value:o}") == value


@pytest.mark.parametrize("text", ["256", "-1", "x", "", "0x", "1k", "08", "1_0", "0b1", "0o7"])
def test_other_patterns_are_refused(text):
    with pytest.raises(QmpError, match="is not a valid pattern byte"):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 bytes"), (1, "1 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"),
        (1536, "1.500 KiB"), (65536, "64 KiB"), (1 << 20, "1 MiB"), (3 << 40, "3 TiB"),
        (0.5212051, "0.521205 bytes"), (0.0001, "0 bytes"),
    ],
)  # fmt: skip
def test_sizes_are_printed_for_people(value, text):
    assert size_text(value) == text


def test_a_report_tells_speed_and_time():
    assert report("wrote", 512, 65536, 0.5, quiet=False, machine=False) == (
        "wrote 65536/65536 bytes at offset 512\n"
        "64 KiB, 1 ops; 00.50 sec (128 KiB/sec and 2.0000 ops/sec)\n"
    )


def test_a_report_for_machines_is_one_line():
    line = report("read", 0, 4096, 0.25, quiet=False, machine=True)
    assert line == "4096,1,0:00:00.25,16384.000,4.000\n"


def test_a_quiet_report_is_empty():
    assert report("read", 0, 4096, 0.25, quiet=True, machine=True) == ""


def test_a_dump_shows_codes_and_characters():
    assert list(dump(b"Az9\x00~", 0x10)) == ["00000010:  41 7a 39 00 7e  Az9..\n"]


def test_a_long_dump_comes_in_pieces():
    pieces = list(dump(bytes(range(256)) * 256, 0))
    assert len(pieces) > 4
    assert max(map(len, pieces)) <= 65536
    lines = "".join(pieces).splitlines()
    assert [int(line[:8], 16) for line in lines] == list(range(0, 65536, 16))
    assert lines[4] == f"00000040:  {bytes(range(64, 80)).hex(' ')}  .ABCDEFGHIJKLMNO"
