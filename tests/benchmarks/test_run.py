"""The program benchmarks/run, and what happens when something dies or somebody interrupts."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import exported, main, runner
from benchmarks.bench import QUICK, Bench
from benchmarks.images import MIB
from benchmarks.model import OURS, QSD, Case, Figures, Metric, Suite
from benchmarks.peers import PEERS, Peer
from tests.tools.programs import run, running

_PROGRAM = Path(__file__).parents[2] / "benchmarks/run"
pytestmark = pytest.mark.skipif(not PEERS[QSD].installed, reason="needs qemu-storage-daemon")


def _arguments(folder: Path, *more: str) -> list[object]:
    (folder / "images").mkdir(exist_ok=True)
    files = [f"--directory={folder / 'images'}", f"--json={folder / 'json'}"]
    return [*files, f"--plot={folder / 'plot'}", "--quick", "--rounds=1", "--peers=qsd", *more]


def _left_over(folder: Path) -> list[str]:
    """Return what still runs in a folder, and what still lies in it."""
    found = [str(path) for path in (folder / "images").iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd").startswith(str(folder)):
                found.append((process / "cmdline").read_text())
        except OSError:  # it has just ended
            continue
    return found


def test_a_run_prints_a_table_and_writes_its_figures(tmp_path: Path):
    done = run(_PROGRAM, *_arguments(tmp_path, "status"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "snapshot of it" in done.stdout
    document = json.loads((tmp_path / "json").read_text())
    assert {row["name"] for row in document["results"]} == {"raw file", "snapshot of it"}
    assert all(set(row["figures"]) == {OURS, QSD} for row in document["results"])
    assert _left_over(tmp_path) == []


def test_a_daemon_that_dies_is_a_failure_and_the_run_goes_on(tmp_path: Path):
    broken = tmp_path / "bin/qemu-storage-daemon"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho broken >&2; exit 3\n")
    broken.chmod(0o755)
    path = f"{broken.parent}:{os.environ['PATH']}"
    done = run(_PROGRAM, *_arguments(tmp_path, "status"), environment={"PATH": path})
    assert done.returncode == 1
    assert "raw file: qsd FAILED: qsd ended with status 3: broken" in done.stdout
    document = json.loads((tmp_path / "json").read_text())
    assert [failure["peer"] for failure in document["failures"]] == [QSD, QSD]
    assert all(set(row["figures"]) == {OURS} for row in document["results"])


def test_one_that_dies_under_load_is_not_measured_again(tmp_path: Path):
    measured: list[str] = []

    def measure(bench: Bench, peer: Peer) -> Figures:
        measured.append(peer.name)
        with exported.serve_raw(bench, peer) as server:
            if peer.name == QSD:
                server.process.kill()
                server.process.wait()
        return {"rate": 1}

    case = Case("case", (Metric("rate", "1/s"),), measure)
    suite = Suite("suite", "", (case,))
    with Bench(replace(QUICK, rounds=2, disk=MIB), tmp_path) as bench:
        result = runner.measure(suite, case, bench, [PEERS[OURS], PEERS[QSD]])
    assert measured == [OURS, QSD, OURS]
    assert result.failures == {QSD: "qsd ended with status -9: it said nothing"}
    assert result.figures == {"rate": {OURS: [1, 1]}}


def test_nobody_is_always_measured_first(tmp_path: Path):
    measured: list[str] = []

    def measure(_bench: Bench, peer: Peer) -> Figures:
        measured.append(peer.name)
        return {"rate": 1}

    case = Case("case", (Metric("rate", "1/s"),), measure)
    with Bench(replace(QUICK, rounds=3), tmp_path) as bench:
        runner.measure(Suite("suite", "", (case,)), case, bench, [PEERS[OURS], PEERS[QSD]])
    assert measured == [OURS, QSD, QSD, OURS, OURS, QSD]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, number: signal.Signals):
    arguments = _arguments(tmp_path, "--seconds=60", "plain")
    with running(_PROGRAM, *arguments, folder=tmp_path) as program:
        # The load's program runs in the folder of the images: it is at work.
        while not any("fio" in found for found in _left_over(tmp_path)):
            assert program.process.poll() is None
        status, output, errors = program.end(number)
    assert (status, errors) == (128 + number, "")
    assert "Traceback" not in output
    assert _left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["nothing"], "no such suite: nothing"), (["--peers=none"], "no such peer: none")],
)
def test_a_wrong_argument_is_said_in_one_line(arguments: list[str], text: str):
    done = run(_PROGRAM, *arguments)
    assert done.returncode == 2
    assert text in done.stderr


def test_the_compiled_programs_are_measured_if_they_are_there(tmp_path, monkeypatch):
    program = tmp_path / "qmpfleece-qsd"
    compiled = Peer(OURS, str(program))
    monkeypatch.setattr(main, "COMPILED", compiled)
    assert main._peers([QSD], interpreted=False)[0] is PEERS[OURS]
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert main._peers([QSD], interpreted=False)[0] is compiled
    assert main._peers([QSD], interpreted=True)[0] is PEERS[OURS]
