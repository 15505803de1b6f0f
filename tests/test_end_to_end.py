"""The main job, end to end: a disk is fleeced while real clients write to it.

Everything is real: the daemon is a process, the graph is built by qmp-shell, the guest is
fio, the backup clients are nbdcopy, qemu-img, qemu-io and nbdinfo.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.programs import QSD, Running, running

DISK_SIZE = 96 << 20

BUILD = """\
blockdev-add node-name=disk driver=raw file={{"driver":"file","filename":"{disk}"}}
blockdev-add node-name=temp driver=file filename={temp} discard=unmap
blockdev-add node-name=fl-cbw driver=copy-before-write file=disk target=temp discard=unmap
blockdev-add node-name=fl-access driver=snapshot-access file=fl-cbw discard=unmap
nbd-server-start addr={{"type":"unix","data":{{"path":"{socket}"}}}}
block-export-add type=nbd id=guest node-name=fl-cbw name=guest writable=true
block-export-add type=nbd id=snapshot node-name=fl-access name=snapshot
"""

needs_tools = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("fio", "nbdcopy", "nbdinfo", "qemu-img", "qemu-io")),
    reason="needs fio, nbdcopy, nbdinfo, qemu-img and qemu-io",
)


def run(*command: object, stdin: str | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Fleece:
    """A daemon with the fleecing graph over a disk of random data."""

    def __init__(self, folder: Path) -> None:
        self.disk, self.temp = folder / "disk.raw", folder / "temp.raw"
        self.before, self.socket, self.qmp = folder / "before.raw", folder / "nbd", folder / "qmp"
        chunk = os.urandom(1 << 20)
        with self.disk.open("wb") as file:
            for number in range(DISK_SIZE >> 20):
                if number % 3 == 2:
                    file.seek(1 << 20, os.SEEK_CUR)  # holes, as real disks have
                else:
                    file.write(number.to_bytes(4, "big") + chunk[4:])
            file.truncate(DISK_SIZE)
        shutil.copyfile(self.disk, self.before)
        self.temp.touch()
        os.truncate(self.temp, DISK_SIZE)
        monitor = f"socket,id=m,path={self.qmp},server=on,wait=off"
        words = (QSD, "--chardev", monitor, "--monitor", "chardev=m", "--pidfile", folder / "pid")
        self.program = Running(*words, folder=folder)
        self.program.wait_for(folder / "pid")

    def shell(self, script: str, *options: str) -> str:
        return run(Path(sys.executable).with_name("qmp-shell"), *options, self.qmp, stdin=script)

    def uri(self, export: str) -> str:
        return f"nbd+unix:///{export}?socket={self.socket}"

    def build(self) -> None:
        text = self.shell(BUILD.format(disk=self.disk, temp=self.temp, socket=self.socket))
        assert text.count('{"return": {}}') == BUILD.count("\n"), text

    def fio(self) -> contextlib.AbstractContextManager[Running]:
        return running(
            *("fio", "--name=guest", "--ioengine=nbd", f"--uri={self.uri('guest')}"),
            *("--rw=randwrite", "--bsrange=512-64k", "--blockalign=512", "--iodepth=16"),
            *(f"--size={DISK_SIZE}", "--randrepeat=0"),
            *("--verify=crc32c", "--verify_state_save=0", "--do_verify=1"),
            folder=self.disk.parent,
        )

    def end(self) -> None:
        status, _, errors = self.program.end()
        assert (status, errors) == (0, "")
        assert not self.socket.exists()
        assert not self.qmp.exists()


@pytest.fixture
def fleece(tmp_path: Path) -> Iterator[Fleece]:
    fleece = Fleece(tmp_path)
    try:
        yield fleece
    finally:
        fleece.program.end(signal.SIGKILL)


def identical(first: object, second: object) -> bool:
    return run("cmp", first, second) == ""


@needs_tools
def test_pulled_snapshot_equals_the_disk_before_under_a_random_write_load(
    fleece: Fleece, tmp_path: Path
) -> None:
    fleece.build()
    pulled, pulls = tmp_path / "pulled.raw", 0
    with fleece.fio() as writer:
        while not fleece.temp.stat().st_blocks:  # nothing has been overwritten yet
            with pytest.raises(subprocess.TimeoutExpired):
                writer.process.wait(0.005)
        while writer.process.poll() is None:
            run("nbdcopy", fleece.uri("snapshot"), pulled)
            assert identical(pulled, fleece.before)
            pulls += 1
        status, output, errors = writer.end()
    assert status == 0, output + errors
    assert pulls
    # The whole disk has been overwritten by now; the snapshot stays what it was.
    raw = ("-f", "raw", "-F", "raw")
    assert "identical" in run("qemu-img", "compare", *raw, fleece.uri("snapshot"), fleece.before)
    fleece.end()
    assert subprocess.run(["cmp", "-s", fleece.disk, fleece.before], check=False).returncode == 1


@needs_tools
def test_usual_tools_work_on_both_exports(fleece: Fleece) -> None:
    fleece.build()
    guest, snapshot = fleece.uri("guest"), fleece.uri("snapshot")
    seen = {
        name: json.loads(run("nbdinfo", "--json", fleece.uri(name)))["exports"][0]
        for name in ("guest", "snapshot")
    }
    assert not seen["guest"]["is_read_only"]
    assert seen["snapshot"]["is_read_only"]
    assert {export["export-size"] for export in seen.values()} == {DISK_SIZE}
    listed = json.loads(run("nbdinfo", "--list", "--json", f"nbd+unix://?socket={fleece.socket}"))
    assert [export["export-name"] for export in listed["exports"]] == ["guest", "snapshot"]
    before = run("nbdinfo", "--map", "--totals", snapshot)
    io = ("qemu-io", "-f", "raw")
    run(
        *io, "-c", "write -P 0x11 3000 70000", "-c", "write -z 1M 1M", "-c", "discard 4M 1M", guest
    )
    run(*io, "-c", "read -P 0x11 3000 70000", "-c", "read -P 0 1M 1M", guest)
    compare = ("qemu-img", "compare", "-f", "raw", "-F", "raw")
    assert "identical" in run(*compare, snapshot, fleece.before)
    assert run("nbdinfo", "--map", "--totals", snapshot).split()[0] == before.split()[0]
    refused = subprocess.run(
        [*io, "-c", "write 0 512", snapshot], check=False, capture_output=True
    )
    assert refused.returncode != 0
    fleece.end()


@needs_tools
def test_qmp_shell_shows_the_graph_in_pretty_and_plain_form(fleece: Fleece) -> None:
    fleece.build()
    plain = fleece.shell("query-named-block-nodes flat=true\n")
    pretty = fleece.shell("query-named-block-nodes flat=true\n", "-p")
    nodes = json.loads(plain[plain.index('{"return"') : plain.rindex("}") + 1])["return"]
    assert [node["node-name"] for node in nodes][:3] == ["fl-access", "fl-cbw", "temp"]
    assert '"node-name": "fl-access"' in pretty
    assert json.loads(pretty[pretty.index("{\n") : pretty.rindex("}") + 1])["return"] == nodes
    fleece.end()
