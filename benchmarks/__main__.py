"""Speed of the fleecing graph beside qemu-storage-daemon's, measured in the same run.

    python -m benchmarks [--seconds 5] [--rounds 3] [--size 1024] [NAME...]

Each round measures every program in turn, so that a slow moment of the machine hits all of
them; the best round of each counts. NAME picks loads by name.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BIN: Final = Path(sys.executable).parent
_PROGRAMS: Final = ("qemu-storage-daemon", str(_BIN / "qmpfleece-qsd"))
_START_S: Final = 20.0


@dataclass(frozen=True)
class Load:
    """One fio job on one export."""

    name: str
    export: str
    rw: str
    block: str
    depth: int


_LOADS: Final = (
    Load("guest-randread-4k", "guest", "randread", "4k", 32),
    Load("guest-randwrite-4k", "guest", "randwrite", "4k", 32),
    Load("snapshot-randread-4k", "snapshot", "randread", "4k", 32),
    Load("guest-read-1m", "guest", "read", "1m", 8),
    Load("snapshot-read-1m", "snapshot", "read", "1m", 8),
)


@contextmanager
def _serving(program: str, directory: Path, size: int) -> Iterator[str]:
    """Run a daemon with the graph on fresh files; give the socket's path."""
    disk, temp, ready = directory / "disk", directory / "temp", directory / "pid"
    socket = directory / "nbd.sock"
    # Real data: holes would travel as a few bytes.
    with disk.open("wb") as file:
        for _ in range(size >> 20):
            file.write(b"\x11" * (1 << 20))
    with temp.open("wb") as file:
        file.truncate(size)
    ready.unlink(missing_ok=True)
    graph = [
        f"--blockdev=file,node-name=disk,filename={disk}",
        f"--blockdev=file,node-name=temp,filename={temp}",
        "--blockdev=copy-before-write,node-name=cbw,file=disk,target=temp",
        "--blockdev=snapshot-access,node-name=access,file=cbw",
        f"--nbd-server=addr.type=unix,addr.path={socket}",
        "--export=nbd,id=guest,node-name=cbw,name=guest,writable=on",
        "--export=nbd,id=snapshot,node-name=access,name=snapshot",
        f"--pidfile={ready}",
    ]
    daemon = subprocess.Popen([program, *graph])
    try:
        deadline = time.monotonic() + _START_S
        while not ready.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{program} did not start")
            time.sleep(0.01)
        yield str(socket)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()


def _measure(load: Load, socket: str, seconds: int) -> tuple[float, float]:
    """Run fio; return requests per second and bytes per second."""
    done = subprocess.run(
        [
            "fio",
            "--name=load",
            "--ioengine=nbd",
            f"--uri=nbd+unix:///{load.export}?socket={socket}",
            f"--rw={load.rw}",
            f"--bs={load.block}",
            f"--iodepth={load.depth}",
            "--time_based",
            f"--runtime={seconds}",
            "--output-format=json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    # fio may put notes before the document.
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    side = job["write" if "write" in load.rw else "read"]
    return float(side["iops"]), float(side["bw_bytes"])


def main() -> int:
    """Print one line for each load and program."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seconds", type=int, default=5, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024, help="of the disk, in MiB")
    options = parser.parse_args()
    missing = [name for name in ("fio", *_PROGRAMS) if shutil.which(name) is None]
    if missing:
        print("missing:", ", ".join(missing), file=sys.stderr)
        return 1
    print(f"{'load':<24}{'program':<24}{'requests/s':>12}{'MiB/s':>10}{'of QEMU':>9}")
    for load in _LOADS:
        if options.names and load.name not in options.names:
            continue
        best: dict[str, tuple[float, float]] = {}
        for _ in range(options.rounds):
            for program in _PROGRAMS:
                with (
                    tempfile.TemporaryDirectory() as directory,
                    _serving(program, Path(directory), options.size << 20) as socket,
                ):
                    figures = _measure(load, socket, options.seconds)
                best[program] = max(figures, best.get(program, (0.0, 0.0)))
        for program, (requests, rate) in best.items():
            share = requests / best[_PROGRAMS[0]][0]
            name = os.path.basename(program)
            print(
                f"{load.name:<24}{name:<24}{requests:>12,.0f}{rate / 2**20:>10,.0f}{share:>9.2f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
