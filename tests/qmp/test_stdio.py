"""A process whose monitor is its standard input and output, of every kind, on both loops."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
from qmpfleece.control.dispatch import Dispatcher
from qmpfleece.qmp.listener import QmpServer
from tests.tools.qmp_pair import make_system

async def main():
    system = make_system()
    server = QmpServer(Dispatcher(system))
    await server.stdio()
    await system.shutdown.wait()
    await server.close()

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""
SCRIPT = b'{"execute":"qmp_capabilities"}{"execute":"stop"}\n{"execute":"quit"}'

loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def check(output):
    seen = [next(iter(json.loads(line))) for line in output.splitlines()]
    assert seen == ["QMP", "return", "timestamp", "return", "return"]


@loops
def test_pipes(loop):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, loop], input=SCRIPT, capture_output=True, check=True
    )
    check(done.stdout)
    assert done.stderr == b""


@loops
def test_files(loop, tmp_path):
    (tmp_path / "in").write_bytes(SCRIPT)
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
        subprocess.run(
            [sys.executable, "-c", PROGRAM, loop], stdin=source, stdout=target, check=True
        )
    check((tmp_path / "out").read_bytes())


@loops
def test_end_of_input_does_not_end_the_program(loop):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, loop],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert b"QMP" in process.stdout.readline()
        assert process.poll() is None
        process.kill()
