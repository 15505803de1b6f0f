"""The NBD server beside qemu-storage-daemon: same export, same client, turn by turn.

    .venv/bin/python benchmarks/nbd_smoke.py [--seconds 3] [--rounds 2] [--loop uvloop]

Prints, for each workload and round, requests per second and the server's CPU time per
request. The latter compares well even when the machine is busy. Needs fio with its nbd engine
and qemu-storage-daemon.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_SIZE = 256 << 20
_WORKLOADS = {
    "read 4k": ("randread", "4k"),
    "read 64k": ("randread", "64k"),
    "read 1m": ("read", "1m"),
    "write 4k": ("randwrite", "4k"),
    "write 1m": ("write", "1m"),
}
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _serving(command: str, directory: Path, loop: str) -> Iterator[tuple[int, Path]]:
    """Run a daemon that exports a file in the page cache and a null node."""
    path = directory / f"{Path(command).name}.sock"
    image = directory / f"{Path(command).name}.raw"
    image.write_bytes(b"\xa5" * _SIZE)
    arguments = [
        command,
        f"--blockdev=driver=file,node-name=file,filename={image}",
        f"--blockdev=driver=null-co,node-name=null,size={_SIZE},read-zeroes=off",
        f"--nbd-server=addr.type=unix,addr.path={path}",
        "--export=type=nbd,id=file,node-name=file,writable=on",
        "--export=type=nbd,id=null,node-name=null,writable=on",
    ]
    process = subprocess.Popen(arguments, env=os.environ | {"QMPFLEECE_LOOP": loop})
    try:
        while True:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(path))
                break
            if process.poll() is not None:
                raise SystemExit(f"{command} ended with status {process.returncode}")
            time.sleep(0.05)
        yield process.pid, path
    finally:
        process.terminate()
        process.wait()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _measure(pid: int, path: Path, export: str, workload: str, seconds: float) -> str:
    pattern, block = _WORKLOADS[workload]
    before = _cpu_s(pid)
    done = subprocess.run(
        [
            "fio",
            "--name=smoke",
            "--ioengine=nbd",
            f"--uri=nbd+unix:///{export}?socket={path}",
            f"--rw={pattern}",
            f"--bs={block}",
            f"--size={_SIZE}",
            "--iodepth=32",
            "--time_based",
            f"--runtime={seconds}",
            "--output-format=json",
        ],
        stdout=subprocess.PIPE,
        cwd=path.parent,
        check=True,
    )
    spent = _cpu_s(pid) - before
    # fio may print a note before its JSON.
    job = json.loads(done.stdout[done.stdout.index(b"{") :])["jobs"][0]
    side = job["read"] if "read" in pattern else job["write"]
    cpu_us = spent * 1e6 / max(side["total_ios"], 1)
    return f"{side['iops']:>10.0f} /s {cpu_us:>8.1f} us"


def main() -> None:
    """Measure both daemons in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--loop", default="uvloop", choices=("uvloop", "asyncio"))
    given = parser.parse_args()
    ours = str(Path(sys.executable).with_name("qmpfleece-qsd"))
    with (
        tempfile.TemporaryDirectory() as name,
        _serving("qemu-storage-daemon", Path(name), given.loop) as qemu,
        _serving(ours, Path(name), given.loop) as fleece,
    ):
        for export in ("null", "file"):
            for workload in _WORKLOADS:
                for _ in range(given.rounds):
                    row = [_measure(*it, export, workload, given.seconds) for it in (qemu, fleece)]
                    print(f"{export} {workload:<9} qemu {row[0]}   qmpfleece {row[1]}", flush=True)


if __name__ == "__main__":
    main()
