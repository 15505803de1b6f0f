"""The programs with standard streams that are closed, full, or read by nobody."""

import contextlib
import os
import subprocess

import pytest

from tests.tools.outputs import full_pipe
from tests.tools.programs import BIN, PATIENCE_S, QMPFLEECE, QSD, Qmp, run, running
from tests.tools.servers import needs_qemu, qemu_nbd


def shell(command: str, folder=None) -> subprocess.CompletedProcess[str]:
    return run("sh", "-c", command, folder=folder, environment={"PYTHONUNBUFFERED": "1"})


@pytest.mark.parametrize("program", ["qmpfleece", "qmpfleece-qsd", "qmpfleece-qemu"])
@pytest.mark.parametrize("redirection", [">&-", "<&-", ">/dev/full", ">/dev/null", "2>&-"])
def test_help_that_nobody_can_read_is_no_failure(program, redirection):
    done = shell(f"{BIN / program} --help {redirection}")
    assert (done.returncode, done.stderr) == (0, "")


def test_help_whose_reader_has_gone_is_no_failure():
    done = shell(f"{{ {QSD} --help; echo $? >&2; }} | true")
    assert done.stderr == "0\n"


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_daemon_without_standard_streams_ends_in_order(tmp_path, redirection):
    command = f"exec {QSD} --chardev socket,id=m,path=s,server=on,wait=off --monitor m"
    with running("sh", "-c", f"{command} {redirection}", folder=tmp_path) as daemon:
        daemon.wait_for(tmp_path / "s")
        with Qmp(tmp_path / "s") as qmp:
            qmp.execute("quit")
        assert daemon.process.wait(PATIENCE_S) == 0
    assert os.listdir(tmp_path) == []


def test_a_failure_has_its_status_without_standard_streams():
    for redirection in ("2>&-", "<&- >&- 2>&-", "2>/dev/full"):
        assert (
            shell(f"{QSD} --blockdev file,filename=none,node-name=n {redirection}").returncode == 1
        )


def test_names_in_no_encoding_are_told_as_they_were_given():
    done = subprocess.run(
        [QSD, b"\xff\xe9\xc3\xa9"], capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert done.stderr == b"qmpfleece-qsd: \xff\xe9\xc3\xa9: Unexpected argument\n"


def test_fleecing_goes_on_without_its_watcher(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(512))
    command = (
        f"{{ {QMPFLEECE} fleece disk --qmp q; echo $? >status; }} | {{ read line; : >gone; }}"
    )
    with running("sh", "-c", command, folder=tmp_path) as programs:
        programs.wait_for(tmp_path / "gone")
        programs.wait_for(tmp_path / "q")
        with Qmp(tmp_path / "q") as qmp:
            assert qmp.execute("query-status")["running"]
            qmp.execute("quit")
        programs.process.wait(PATIENCE_S)
    assert (tmp_path / "status").read_text() == "0\n"


@needs_qemu
def test_a_sum_that_nobody_gets_is_a_failure(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(512))
    with qemu_nbd(tmp_path / "s", tmp_path / "disk", "-f", "raw", "-r", "-t") as uri:
        pull = f"{QMPFLEECE} pull '{uri}' out"
        done = shell(f"{pull} --sha256 >/dev/full", tmp_path)
        assert done.returncode == 1
        assert done.stderr.endswith("qmpfleece pull: No space left on device\n")
        assert shell(f"{pull} --quiet 2>/dev/full", tmp_path).returncode == 0
        assert shell(f"{pull} 2>/dev/full", tmp_path).returncode == 0


@contextlib.contextmanager
def full_pipe_that_does_not_wait():
    """Yield both ends of a pipe that is full and made to refuse; its writers see to both."""
    with full_pipe() as (output, take):
        writing = os.open(output, os.O_WRONLY | os.O_NONBLOCK)
        try:
            yield writing, take
        finally:
            os.close(writing)


def test_a_result_waits_for_a_reader_though_the_pipe_does_not():
    whole = subprocess.run([QSD, "--help"], stdout=subprocess.PIPE, check=True).stdout
    with full_pipe_that_does_not_wait() as (writing, take):
        program = subprocess.Popen([QSD, "--help"], stdout=writing, stderr=subprocess.PIPE)
        text = b""
        while not text.endswith(whole):
            text += take()
        assert program.communicate(timeout=PATIENCE_S)[1] == b""
        assert program.returncode == 0


@needs_qemu
def test_a_backup_is_kept_though_its_messages_find_no_room(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(512))
    with (
        qemu_nbd(tmp_path / "s", tmp_path / "disk", "-f", "raw", "-r", "-t") as uri,
        full_pipe_that_does_not_wait() as (writing, _),
    ):
        done = subprocess.run(
            [QMPFLEECE, "pull", uri, "out"], stderr=writing, cwd=tmp_path, timeout=PATIENCE_S,
            check=False,
        )  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == bytes(512)


def test_a_signal_ends_a_daemon_whose_messages_find_no_room(tmp_path):
    with full_pipe_that_does_not_wait() as (writing, _):
        options = ["-nodefaults", "-display", "none", "-S", "-qmp", "unix:q,server=on,wait=off"]
        daemon = subprocess.Popen([BIN / "qmpfleece-qemu", *options], stderr=writing, cwd=tmp_path)
        try:
            while not (tmp_path / "q").exists():
                assert daemon.poll() is None
            with Qmp(tmp_path / "q"):
                daemon.terminate()
                assert daemon.wait(PATIENCE_S) == 0
        finally:
            daemon.kill()
            daemon.wait()
