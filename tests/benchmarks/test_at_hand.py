import os
import subprocess
import sys
from pathlib import Path

import pytest

_MIB = 1024
_MEASURE = """
from pathlib import Path
from benchmarks import at_hand

def told(name):
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0])

before = told("VmRSS")
"""
_KEPT = """
with at_hand.kept(64 << 20):
    print(told("VmHWM") - before, told("VmRSS") - before)
print(told("VmRSS") - before)
"""
_CACHED = """
with at_hand.cached(Path({path!r})) as locked:
    print(int(locked), told("VmLck"))
print(told("VmLck"))
"""
_FETCHED = """
at_hand.fetch(64 << 20)
print(told("VmHWM") - before, told("VmRSS") - before)
"""


def _figures(script: str) -> list[int]:
    said = subprocess.run(
        [sys.executable, "-c", _MEASURE + script], capture_output=True, text=True, check=True
    ).stdout
    return [int(word) for word in said.split()]


def test_all_memory_is_touched_and_little_of_it_kept():
    most, inside, after = _figures(_KEPT)
    assert most > 60 * _MIB
    assert 256 <= inside < 8 * _MIB  # a page in each 512 KiB
    assert after < 8 * _MIB


def test_fetched_memory_is_touched_and_free_again():
    most, after = _figures(_FETCHED)
    assert most > 60 * _MIB
    assert after < 8 * _MIB


@pytest.mark.skipif(os.geteuid() != 0, reason="to lock memory takes a privilege")
def test_a_file_is_locked_into_the_page_cache_and_let_go(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(bytes(8 << 20))
    locked, inside, after = _figures(_CACHED.format(path=str(path)))
    assert locked
    assert inside == 8 * _MIB
    assert not after
