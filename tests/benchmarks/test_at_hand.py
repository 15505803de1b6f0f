import subprocess
import sys

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
