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
with at_hand.kept(64 << 20):
    print(told("VmHWM") - before, told("VmRSS") - before)
print(told("VmRSS") - before)
"""


def test_all_memory_is_touched_and_little_of_it_kept():
    said = subprocess.run(
        [sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True
    ).stdout
    most, inside, after = map(int, said.split())
    assert most > 60 * _MIB
    assert 256 <= inside < 8 * _MIB  # a page in each 512 KiB
    assert after < 8 * _MIB
