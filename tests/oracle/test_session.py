"""What a scenario waits for in vain stops it, and nothing is left of it."""

import signal
import socket
import subprocess

import pytest

from tests.oracle import compare, conversation, nbd, scenario, session
from tests.oracle.monitor import StoppedError
from tests.oracle.session import Session
from tests.oracle.transcript import Transcript
from tests.oracle.workspace import Workspace
from tests.tools.programs import QSD, needs


@pytest.fixture
def lose_patience(monkeypatch):
    def lose() -> None:
        for module in (conversation, nbd, session):
            monkeypatch.setattr(module, "PATIENCE_S", 0.01)

    return lose


@needs("qemu-storage-daemon")
def test_an_image_that_nobody_comes_to_hold_stops_the_scenario():
    with Workspace() as space, pytest.raises(StoppedError, match="nobody holds the image"):
        space.hold_image(space.path("missing"))


def test_a_query_that_never_answers_what_is_wanted_stops_the_scenario(lose_patience):
    with Session(str(QSD)) as d:
        d.qmp("query-jobs")
        lose_patience()
        with pytest.raises(StoppedError, match="no answer to query-jobs"):
            d.until_told("query-jobs", bool)


def test_a_server_that_does_not_answer_stops_the_scenario(tmp_path, lose_patience):
    lose_patience()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "silent"))
        server.listen()
        with pytest.raises(StoppedError, match="no answer of the NBD server"):
            nbd.NbdClient(str(tmp_path / "silent"), Transcript())


def test_a_pidfile_that_stays_empty_stops_the_scenario(lose_patience):
    with Session(str(QSD)) as d:
        d.start()
        lose_patience()
        d.file("pid", 0)
        with pytest.raises(StoppedError, match="no answer: pid"):
            d.pidfile("pid")


@pytest.fixture
def adopted():
    """A session and the process that it takes for its daemon; the monitor is another one's."""
    with subprocess.Popen(["sleep", "1000"]) as sleeper, Session(str(QSD)) as d:
        chardev = f"socket,id=m,path={d.path('qmp.sock')},server=on,wait=off"
        d.start(
            *("--chardev", chardev, "--monitor", "chardev=m", "--pidfile", "there"), monitor=False
        )
        d.wait_for_file("there")
        (d.dir / "pid").write_text(f"{sleeper.pid}\n")
        d.adopt("pid")
        d.qmp("query-jobs")
        yield d, sleeper
    assert not d.dir.exists()
    assert sleeper.returncode == -signal.SIGKILL


def test_a_daemon_in_the_background_that_does_not_end_stops_the_scenario_and_is_killed(
    adopted, lose_patience
):
    lose_patience()
    with pytest.raises(StoppedError, match="the daemon did not end"):
        adopted[0].finish()


def test_of_a_daemon_in_the_background_that_has_died_nothing_is_left(adopted):
    adopted[1].kill()
    adopted[1].wait()


def test_a_pidfile_of_a_process_that_has_ended_stops_the_scenario():
    with subprocess.Popen(["true"]) as process:
        pass
    with Session(str(QSD)) as d:
        (d.dir / "pid").write_text(f"{process.pid}\n")
        with pytest.raises(StoppedError, match="has ended"):
            d.adopt("pid")


@needs("qemu-storage-daemon")
def test_what_stops_a_scenario_on_both_is_a_difference(monkeypatch):
    def stop(_d: Session) -> None:
        raise StoppedError("nobody listens")

    monkeypatch.setitem(scenario._SCENARIOS, "stop", stop)
    assert compare.differences("stop") == ["qmpfleece-qsd: ** nobody listens"]
