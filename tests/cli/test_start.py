"""What a daemon imports, and when: a client waits for its greeting, and for its requests."""

import json
import subprocess
import sys

import pytest

from tests.tools.programs import QSD

#: What takes long to import and is needed later, or never.
HEAVY = frozenset({
    "bitarray", "ctypes", "dataclasses", "numpy", "pathlib", "pydantic", "random",
    "rich", "tempfile",
})  # fmt: skip
#: What most sessions never need.
RARE = frozenset({
    "qmpfleece.base.uring",
    "qmpfleece.control.devices.manager",
    "qmpfleece.control.introspect",
    "qmpfleece.exports.nbd.server",
    "qmpfleece.jobs.job",
    "qmpfleece.qmp.human",
})  # fmt: skip


@pytest.fixture
def imported(tmp_path):
    """Return what the daemon has imported when it has said all that it was asked for."""

    def look(*requests: str) -> set[str]:
        told = tmp_path / "imports"
        command = [sys.executable, "-X", "importtime", str(QSD)]
        options = ["--chardev", "stdio,id=c", "--monitor", "chardev=c"]
        with (
            told.open("wb") as errors,
            subprocess.Popen(
                [*command, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            ) as daemon,
        ):
            assert b"QMP" in daemon.stdout.readline()
            for request in requests:
                daemon.stdin.write(json.dumps({"execute": request}).encode())
                daemon.stdin.flush()
                assert b"return" in daemon.stdout.readline()
            daemon.kill()
        return {line.rpartition("|")[2].strip() for line in told.read_text().splitlines()}

    return look


def test_greeting_needs_no_heavy_library(imported):
    names = imported()
    assert "asyncio" in names  # so that this sees what is imported
    assert not names & HEAVY


def test_greeting_needs_nothing_that_most_sessions_do_not(imported):
    assert not imported() & RARE


def test_negotiation_needs_no_models(imported):
    assert not imported("qmp_capabilities") & (HEAVY - {"pathlib"})
    assert "pydantic" in imported("qmp_capabilities", "query-version")


def test_what_commands_import_first_stays_out_of_collections_of_garbage(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio, gc\n"
        "from qmpfleece.cli.qsd import _Start\n"
        "from qmpfleece.cli.background import Background\n"
        "from qmpfleece.daemon import Daemon\n"
        "async def main():\n"
        "    async with Daemon() as daemon:\n"
        "        start = _Start(daemon, 'test', [])\n"
        "        serving = asyncio.create_task(start.live(Background(wanted=False)))\n"
        "        while not gc.get_freeze_count(): await asyncio.sleep(0)\n"
        "        await daemon.execute('query-version')\n"
        "        print(len(gc.get_objects()), gc.get_freeze_count(), gc.isenabled())\n"
        "        daemon.end()\n"
        "        await serving\n"
        "asyncio.run(main())\n"
    )
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    young, frozen, collecting = said.stdout.split()
    assert int(young) < int(frozen) / 10
    assert collecting == "True"
