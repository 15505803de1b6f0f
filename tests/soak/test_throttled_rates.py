"""Rates under I/O limits, measured by fio on the real daemon and on ours."""

import json
import shutil
import subprocess

import pytest

from tests.oracle import scenario
from tests.oracle.scenarios.throttle import limit
from tests.oracle.session import Session

_SECONDS = 4
_SIZE = 64 << 20
#: What the two may differ by: the last request of a run counts or does not.
_TOLERANCE = 0.1

_CASES = {
    "bytes": ({"bps_total": 4 << 20}, ("--rw=randread", "--bs=64k")),
    "operations": ({"iops_total": 200}, ("--rw=randwrite", "--bs=4k")),
    "operations by size": (
        {"iops_total": 400, "iops_size": 4096},
        ("--rw=randwrite", "--bs=16k"),
    ),
    "reads and writes of one total": (
        {"bps_total": 8 << 20},
        ("--rw=randrw", "--rwmixread=50", "--bs=32k"),
    ),
    "reads and writes apart": (
        {"bps_read": 2 << 20, "bps_write": 6 << 20},
        ("--rw=randread", "--bs=32k", "--name=writes", "--rw=randwrite", "--bs=32k"),
    ),
    "a burst": (
        {"iops_total": 100, "iops_total_max": 300, "iops_total_max_length": 2},
        ("--rw=randread", "--bs=4k"),
    ),
}


def _rates(program: scenario.Program, name: str) -> list[float]:
    """Return bytes a second read and written under a case's limits."""
    limits, load = _CASES[name]
    path = program.path()
    assert path is not None
    with Session(path) as d:
        limit(d, **limits)
        # With data: what is a hole, the NBD server tells without reading.
        disk = d.file("disk.raw", _SIZE, (1, 0, _SIZE))
        d.qmp("blockdev-add", driver="file", node_name="n", filename=disk)
        d.qmp("blockdev-add", driver="throttle", node_name="t", file="n", throttle_group="g")
        d.nbd_server()
        d.qmp("block-export-add", type="nbd", id="e", node_name="t", name="e", writable=True)
        command = [
            "fio",
            *("--ioengine=nbd", f"--uri={d.uri('e')}", "--iodepth=8", "--output-format=json"),
            *("--time_based", f"--runtime={_SECONDS}", "--name=load"),
            *load,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        jobs = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
        d.qmp("transaction", actions=[])
        return [sum(job[way]["io_bytes"] for job in jobs) / _SECONDS for way in ("read", "write")]


@pytest.mark.soak
@pytest.mark.parametrize("name", _CASES)
def test_the_rates_are_those_of_the_real_daemon(name: str) -> None:
    pair = scenario.STORAGE_DAEMON
    if pair.qemu.path() is None or shutil.which("fio") is None:
        pytest.skip("qemu-storage-daemon or fio is not installed")
    expected, measured = (_rates(program, name) for program in (pair.qemu, pair.ours))
    assert measured == pytest.approx(expected, rel=_TOLERANCE)
