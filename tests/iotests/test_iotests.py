"""The iotests with real QEMU, and what their runner does when all is not well."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from iotests import runner
from iotests.runner import NOT_RUN, PROGRAMS, TESTS
from tests.tools.programs import needs

ROOT = Path(__file__).resolve().parents[2]
#: SHA-256 of the expected output that QEMU 7.2 has with these tests.
QEMUS_OWN = {
    "257": "31637ee10072d9263da331fa4aef0e3d1160874ed530fc6b6a10b23cdf36c88a",
    "image-fleecing": "379efb4310a963f0726b2ee6d1b768eff86440b9d985cb5415193246b3508174",
}

needs_tools = needs("qemu-img", "qemu-io")
needs_qemu = pytest.mark.skipif(
    runner.find(PROGRAMS["qemu"]) is None, reason=f"needs {PROGRAMS['qemu']}"
)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "iotests" / "run", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@needs_tools
@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize("impl", PROGRAMS)
def test_every_implementation_that_is_here_prints_what_was_recorded(impl, name):
    if runner.find(PROGRAMS[impl]) is None:
        pytest.skip(f"not run: {PROGRAMS[impl]} is not there")
    done = run("--impl", impl, name)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(f"{name}: pass (")


@pytest.mark.parametrize("name", TESTS)
def test_what_was_recorded_is_qemus_own_expected_output(name):
    recorded = (ROOT / "iotests" / f"{name}.out").read_bytes()
    assert hashlib.sha256(recorded).hexdigest() == QEMUS_OWN[name]


@needs_qemu
def test_a_difference_is_shown_and_makes_the_run_fail(tmp_path):
    recorded = (ROOT / "iotests" / "image-fleecing.out").read_text()
    (tmp_path / "image-fleecing.out").write_text(
        recorded.replace('"offset": 393216', '"offset": 393217')
    )
    done = run("--impl", "qemu", "--reference", tmp_path, "image-fleecing")
    assert done.returncode == 1
    assert "image-fleecing: FAILED, the output differs" in done.stdout
    removed, added = (
        [line for line in done.stdout.splitlines() if line.startswith(sign + "{")] for sign in "-+"
    )
    assert len(removed) == len(added) == 1
    assert removed[0][1:].replace("393217", "393216") == added[0][1:]


@needs_qemu
def test_a_missing_recording_is_no_success(tmp_path):
    done = run("--impl", "qemu", "--reference", tmp_path, "image-fleecing")
    assert done.returncode == 1
    assert "+Done" in done.stdout.splitlines()


@needs_tools
def test_a_program_that_ends_at_once_fails_the_test_and_its_text_is_shown(tmp_path):
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho broken: no such machine >&2\nexit 3\n")
    program.chmod(0o755)
    status, _output, errors = runner.run_test("257", str(program))
    assert status == 1
    assert "the program ended with status 3" in errors
    assert "broken: no such machine" in errors


@needs_tools
def test_a_test_that_hangs_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = tmp_path / "silent"
    program.write_text(f"#!/bin/sh\nexec >{fifo}\necho started\nexec sleep 1000\n")
    program.chmod(0o755)
    monkeypatch.setattr(runner, "TIME_LIMIT", 4)
    with os.fdopen(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb") as held:
        status, _output, _errors = runner.run_test("257", str(program))
        os.set_blocking(held.fileno(), True)
        # The end comes only when the program has gone.
        assert held.read() == b"started\n"
    assert status is None


def test_without_the_program_nothing_is_run_and_that_is_no_success(monkeypatch, capsys):
    monkeypatch.setitem(runner.PROGRAMS, "qmpfleece", "no-such-program")
    assert runner.main([]) == NOT_RUN
    assert capsys.readouterr().out == "not run: no-such-program is not there\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--record"], "only the real QEMU is recorded"),
        (["--impl", "qmpfleece", "--record", "257"], "only the real QEMU is recorded"),
        (["--impl", "other"], "invalid choice"),
        (["258"], "no such test: 258"),
    ],
)
def test_wrong_usage_is_refused(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_every_test_is_under_the_projects_licence():
    for file in (ROOT / "iotests").iterdir():
        if file.is_file() and file.suffix not in {".out", ".md"}:
            assert "# SPDX-License-Identifier: GPL-2.0-or-later" in file.read_text(), file


def test_every_test_has_its_script_and_its_recording():
    for name in TESTS:
        assert os.access(ROOT / "iotests" / name, os.X_OK)
        assert (ROOT / "iotests" / f"{name}.out").is_file()
    assert shutil.which(ROOT / "iotests" / "run")
