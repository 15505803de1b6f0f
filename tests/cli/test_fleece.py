import asyncio
import errno
import io
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from qmpfleece.base.units import MIB
from qmpfleece.cli.display import Screen
from qmpfleece.cli.ending import Failure, Interrupted
from qmpfleece.cli.fleece import _run, _watch
from qmpfleece.cli.fleecing import Fleece, Settings
from tests.tools.outputs import full_pipe, stopped_terminal
from tests.tools.programs import QMPFLEECE, Qmp, needs, run, running

SIZE = 16 * MIB


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.write(os.urandom(5 * MIB))
        file.truncate(SIZE)
    return path


def fleece(*arguments: object, folder):
    return run(QMPFLEECE, "fleece", *arguments, folder=folder)


@needs("qemu-io", "nbdcopy")
def test_the_snapshot_stays_what_the_disk_was(tmp_path, disk):
    before = disk.read_bytes()
    command = (
        'qemu-io -f raw -c "write -P 1 0 4M" -c "write -z 4M 1M" -c "discard 8M 1M" "$guest_uri"'
        ' >log && nbdcopy "$uri" out && test -S "$qmp" && ls -a >names'
    )
    done = fleece("disk.raw", "--run", command, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "out").read_bytes() == before
    assert disk.read_bytes()[: 5 * MIB] == b"\1" * (4 * MIB) + bytes(MIB)
    assert ".temp" in (tmp_path / "names").read_text()
    assert sorted(os.listdir(tmp_path)) == ["disk.raw", "log", "names", "out"]
    first = done.stderr.splitlines()
    assert first[0] == "disk      disk.raw, 16.0 MiB, raw"
    assert [line.split()[0] for line in first] == ["disk", "guest", "snapshot", "QMP"]


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("", 0)])
def test_the_command_s_status_is_passed_on(tmp_path, disk, command, status):
    assert fleece(disk, "--run", command, folder=tmp_path).returncode == status


def test_a_signal_is_passed_on_to_the_command(tmp_path, disk):
    command = "trap 'echo bye >bye; exit 3' TERM; : >ready; while :; do sleep 0.01; done"
    with running(QMPFLEECE, "fleece", disk, "--run", command, folder=tmp_path) as program:
        program.wait_for(tmp_path / "ready")
        assert program.end(signal.SIGTERM)[0] == 3
    assert sorted(os.listdir(tmp_path)) == ["bye", "disk.raw", "ready"]


def away_from_terminals(command, folder):
    """Run a command under fleece where no terminal tells both of its signals."""
    return running("setsid", QMPFLEECE, "fleece", "disk.raw", "--run", command, folder=folder)


def test_all_that_the_command_has_started_gets_the_signal(tmp_path, disk):
    # The end of its output is that of the last of them.
    with away_from_terminals(": >ready; sleep 60; :", tmp_path) as program:
        program.wait_for(tmp_path / "ready")
        assert program.end(signal.SIGTERM)[0] == 128 + signal.SIGTERM


def test_a_signal_that_the_command_outlives_is_not_the_last(tmp_path, disk):
    command = "trap ': >told' INT; trap 'exit 3' TERM; : >ready; while :; do sleep 0.01; done"
    with away_from_terminals(command, tmp_path) as program:
        program.wait_for(tmp_path / "ready")
        program.process.send_signal(signal.SIGINT)
        program.wait_for(tmp_path / "told")
        assert program.end(signal.SIGTERM)[0] == 3


def test_at_a_terminal_the_command_reads_it_and_has_ctrl_c_from_it(tmp_path, disk):
    ours, theirs = os.openpty()
    command = "trap ': >told' INT; : >ready; while ! read line; do :; done; echo $line >line"
    shell = f'exec setsid --ctty "$@" <{os.ttyname(theirs)}'
    words = ("sh", "-c", shell, "sh", QMPFLEECE, "fleece", "disk.raw", "--run", command)
    try:
        with running(*words, folder=tmp_path) as program:
            program.wait_for(tmp_path / "ready")
            os.write(ours, b"\3")
            program.wait_for(tmp_path / "told")
            os.write(ours, b"hello\n")
            program.wait_for(tmp_path / "line")
            assert program.process.wait(20) == 0
    finally:
        os.close(theirs)
        os.close(ours)
    assert (tmp_path / "line").read_text() == "hello\n"


def test_a_command_that_ends_when_the_signal_comes_is_not_told_any_more(tmp_path, disk):
    statuses = {128 + signal.SIGTERM, 128 + signal.SIGKILL}
    for _ in range(5):
        with away_from_terminals("kill -TERM $PPID; kill -9 $$", tmp_path) as program:
            program.process.wait(30)
            status, _, errors = program.end()
        assert status in statuses
        assert "QMP" in errors.splitlines()[-1]


async def test_who_interrupts_before_the_command_is_begun_has_it_not_begun(tmp_path, disk):
    interrupted = Interrupted()
    interrupted.take(signal.SIGINT)
    async with Fleece(Settings(disk=disk)) as fleece:
        with pytest.raises(Failure, match="interrupted") as caught:
            await _run(f": >{tmp_path}/begun", fleece, Screen(io.StringIO()), interrupted)
    assert caught.value.status == 128 + signal.SIGINT
    assert os.listdir(tmp_path) == ["disk.raw"]


@pytest.mark.filterwarnings("ignore:subprocess .* is still running")  # nobody can wait for it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_command_that_no_thread_can_wait_for_does_not_outlive_us(
    tmp_path, disk, monkeypatch
):
    async def refuse(*_: object):
        raise RuntimeError("can't start new thread")

    reader, writer = os.pipe()
    monkeypatch.chdir(tmp_path)
    async with Fleece(Settings(disk=disk)) as fleece:
        monkeypatch.setattr(asyncio, "to_thread", refuse)
        os.set_inheritable(writer, True)
        with pytest.raises(RuntimeError):
            await _run("sleep 600; :", fleece, Screen(io.StringIO()), Interrupted())
        os.close(writer)
        assert os.read(reader, 1) == b""  # nobody has the other end any more
    os.close(reader)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_was_ignored_at_the_beginning_stays_ignored(tmp_path, disk, number):
    shell = 'trap "" "$0" && exec "$@"'
    words = ("sh", "-c", shell, int(number), QMPFLEECE, "fleece", disk, "--qmp", "qmp.sock")
    with running(*words, folder=tmp_path) as program:
        program.wait_for(tmp_path / "qmp.sock")
        (line,) = re.findall(
            r"SigIgn:\t(\w+)", Path(f"/proc/{program.process.pid}/status").read_text()
        )
        assert int(line, 16) & 1 << number - 1
        assert program.end(signal.SIGTERM)[0] == 0
    done = run(*words, "--run", "grep SigIgn /proc/self/status", folder=tmp_path)
    assert int(done.stdout.split()[1], 16) & 1 << number - 1


def test_what_the_command_leaves_behind_holds_no_output_of_ours(tmp_path, disk):
    command = "ls -l /proc/self/fd >held 2>/dev/null </dev/null"
    assert fleece(disk, "--run", command, folder=tmp_path).returncode == 0
    held = (tmp_path / "held").read_text()
    assert "held" in held
    assert "pipe:" not in held


@needs("nbdinfo")
@pytest.mark.parametrize("temp", [False, True])
def test_it_runs_until_ctrl_c_and_leaves_the_disk_only(tmp_path, disk, temp):
    options = ["--nbd", "unix:nbd.sock", "--qmp", "qmp.sock"]
    if temp:
        options += ["--temp", "temp"]
    with running(QMPFLEECE, "fleece", "disk.raw", *options, folder=tmp_path) as program:
        program.wait_for(tmp_path / "qmp.sock")
        with Qmp(tmp_path / "qmp.sock") as qmp:
            nodes = [node["node-name"] for node in qmp.execute("query-named-block-nodes")]
            assert {"disk", "temp", "fl-cbw", "fl-access"} <= set(nodes)
        uri = "nbd+unix:///snapshot?socket=nbd.sock"
        assert run("nbdinfo", "--size", uri, folder=tmp_path).stdout == f"{SIZE}\n"
        status, output, errors = program.end(signal.SIGINT)
    assert (status, errors) == (0, "")
    assert "Press Ctrl-C to end." in output
    assert "0 B saved, " in output
    assert output.endswith("ended; the disk stays as the guest has written it\n")
    assert os.listdir(tmp_path) == ["disk.raw"]


@needs("qemu-io")
def test_the_guest_goes_on_without_what_the_status_tells_of(tmp_path, disk):
    options = ["--nbd", "unix:nbd.sock", "--qmp", "qmp.sock", "--temp", "temp"]
    with running(QMPFLEECE, "fleece", "disk.raw", *options, folder=tmp_path) as program:
        program.wait_for(tmp_path / "qmp.sock")
        (tmp_path / "temp").unlink()
        with Qmp(tmp_path / "qmp.sock") as qmp:
            qmp.execute("block-dirty-bitmap-add", node="fl-cbw", name="mine")
            qmp.execute("block-export-del", id="snapshot", mode="hard")
            qmp.execute("block-export-del", id="guest", mode="hard")
            qmp.execute("blockdev-del", **{"node-name": "fl-access"})
            qmp.execute("blockdev-del", **{"node-name": "fl-cbw"})
            qmp.execute("blockdev-add", **{"driver": "null-co", "node-name": "fl-cbw"})
            more = {"type": "nbd", "id": "again", "node-name": "disk", "writable": True}
            qmp.execute("block-export-add", **more)
        write = ("qemu-io", "-f", "raw", "-c", "write -P 1 0 64k")
        uri = "nbd+unix:///disk?socket=nbd.sock"
        assert run(*write, uri, folder=tmp_path).returncode == 0
        status, _, errors = program.end(signal.SIGINT)  # the status is looked at once more
    assert (status, errors) == (0, "")


@needs("qemu-io")
@pytest.mark.parametrize("watched", [stopped_terminal, full_pipe])
@pytest.mark.parametrize("command", [None, "while :; do sleep 0.1; done"])
def test_nobody_who_takes_nothing_holds_up_the_guest_or_the_end(tmp_path, disk, watched, command):
    words = [QMPFLEECE, "fleece", "disk.raw", "--nbd", "unix:nbd.sock", "--qmp", "qmp.sock"]
    words += ["--run", command] if command else []
    with watched() as (output, go_on):
        shell = f'exec "$@" >{output} 2>&1'
        with running("sh", "-c", shell, "sh", *words, folder=tmp_path) as program:
            program.wait_for(tmp_path / "qmp.sock")
            with Qmp(tmp_path / "qmp.sock") as qmp:
                uri = "nbd+unix:///guest?socket=nbd.sock"
                write = ("qemu-io", "-f", "raw", "-c", "write -P 1 0 64k", uri)
                assert run(*write, folder=tmp_path).returncode == 0
                program.process.send_signal(signal.SIGTERM)
                qmp.wait_for_end()
            assert "disk.raw" in os.listdir(tmp_path)
            go_on()
            program.process.wait(20)
            assert program.end()[0] == (128 + signal.SIGTERM if command else 0)


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 15),
        ({"on_error": "break-guest-write"}, 0),
        ({"timeout_s": 0}, 0),
        ({"on_error": "break-guest-write", "timeout_s": 3}, 3),
    ],
)
def test_a_slow_temporary_image_never_holds_the_guest_for_long_by_default(options, seconds):
    assert Settings(disk=Path("disk.raw"), **options).cbw_timeout_s == seconds


def test_a_snapshot_lost_just_before_the_end_is_told_of(disk):
    stream = io.StringIO()

    async def lose_and_end() -> None:
        interrupted = Interrupted()
        async with Fleece(Settings(disk=disk)) as fleece:
            watching = asyncio.create_task(_watch(fleece, Screen(stream), interrupted))
            await asyncio.sleep(0)
            assert " saved" in stream.getvalue()
            driver = fleece.daemon.system.graph.find("fl-cbw").driver
            driver.snapshot.error = OSError(errno.ENOSPC, "No space left on device")
            interrupted.event.set()
            await watching

    asyncio.run(lose_and_end())
    assert "warning: the snapshot is lost: " in stream.getvalue()


async def test_fleecing_goes_on_without_clients_when_one_has_stopped_the_nbd_server(disk):
    async with Fleece(Settings(disk=disk)) as fleece:
        await fleece.daemon.execute("nbd-server-stop")
        assert fleece.status().clients == 0


def test_quit_over_qmp_ends_it(tmp_path, disk):
    with running(QMPFLEECE, "fleece", disk, "--qmp", "qmp.sock", folder=tmp_path) as program:
        program.wait_for(tmp_path / "qmp.sock")
        with Qmp(tmp_path / "qmp.sock") as qmp:
            assert qmp.execute("quit") == {}
        program.process.wait(20)
        assert program.end()[0] == 0
    assert os.listdir(tmp_path) == ["disk.raw"]


def test_quit_over_qmp_is_a_signal_to_the_command(tmp_path, disk):
    command = "trap 'exit 3' TERM; while :; do sleep 0.01; done"
    words = (QMPFLEECE, "fleece", disk, "--qmp", "qmp.sock", "--run", command)
    with running(*words, folder=tmp_path) as program:
        program.wait_for(tmp_path / "qmp.sock")
        with Qmp(tmp_path / "qmp.sock") as qmp:
            assert qmp.execute("quit") == {}
        assert program.process.wait(20) in {3, 128 + signal.SIGTERM}  # the trap may not be set yet
    assert os.listdir(tmp_path) == ["disk.raw"]


def test_a_disk_in_use_is_refused(tmp_path, disk):
    with running(QMPFLEECE, "fleece", disk, "--qmp", "qmp.sock", folder=tmp_path) as program:
        program.wait_for(tmp_path / "qmp.sock")
        done = fleece(disk, folder=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("qmpfleece fleece: Failed to get ")
        assert done.stderr.endswith(f" lock; is another process using '{disk}'?\n")
        assert program.end()[0] == 0


@needs("nbdfuse", "nbdkit")
def test_data_in_a_file_that_takes_no_space_are_not_written_over(tmp_path, disk):
    temp = tmp_path / "temp"
    temp.touch()
    # FUSE tells of no blocks.
    words = (
        "nbdfuse",
        "-P",
        "pid",
        temp,
        "[",
        "nbdkit",
        "--exit-with-parent",
        "data",
        "1 2 3",
        "]",
    )
    with running(*words, folder=tmp_path) as server:
        try:
            server.wait_for(tmp_path / "pid", filled=True)
        except AssertionError as error:
            pytest.skip(f"no FUSE here: {error}")
        try:
            assert temp.stat().st_blocks == 0
            done = fleece(disk, "--temp", temp, "--run", "true", folder=tmp_path)
            assert done.stderr == (
                f"qmpfleece fleece: '{temp}' holds data already; give a new or an empty file\n"
            )
            assert temp.read_bytes() == b"\1\2\3"
        finally:
            run("umount", temp)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["none"], 1, "cannot open 'none': No such file or directory"),
        (["."], 1, "cannot open '.': it is a directory"),
        (["disk.raw", "--format", "bogus"], 1, "cannot open 'disk.raw': "
         "Parameter 'driver' does not accept value 'bogus'"),
        (["disk.raw", "--temp", "disk.raw"], 1,
         "'disk.raw' holds data already; give a new or an empty file"),
        (["disk.raw", "--temp", "no/such"], 1,
         "cannot make a temporary file: 'no/such': No such file or directory"),
        (["disk.raw", "--nbd", "foo"], 2,
         "--nbd takes unix:PATH, HOST:PORT or [ADDRESS]:PORT, not 'foo'"),
        (["disk.raw", "--nbd", "unix:no/such"], 1, "Failed to bind socket to {}/no/such: "
         "No such file or directory"),
        (["disk.raw", "--qmp", "no/such"], 1,
         "Failed to bind socket to no/such: No such file or directory"),
        (["disk.raw", "--qmp", "/" + "x" * 107], 1,
         f"UNIX socket path '/{'x' * 107}' is too long"),
        (["disk.raw", "--timeout", "x"], 2,
         "argument --timeout: invalid seconds value: 'x' (see qmpfleece fleece --help)"),
        ([], 2, "the following arguments are required: DISK (see qmpfleece fleece --help)"),
    ],
)  # fmt: skip
def test_what_can_not_be_done_is_one_line(tmp_path, disk, arguments, status, message):
    done = fleece(*arguments, folder=tmp_path)
    assert done.stderr == f"qmpfleece fleece: {message.format(tmp_path)}\n"
    assert (done.returncode, done.stdout) == (status, "")
    assert os.listdir(tmp_path) == ["disk.raw"]


@pytest.mark.parametrize("option", ["--nbd=unix:s", "--qmp=s"])
def test_the_socket_of_another_server_is_left_to_it(tmp_path, disk, option):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        done = fleece("disk.raw", option, "--run", "true", folder=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("qmpfleece fleece: another server listens at '")
        assert sorted(os.listdir(tmp_path)) == ["disk.raw", "s"]
    # Nobody's: it is what a killed server has left.
    assert fleece("disk.raw", option, "--run", "true", folder=tmp_path).returncode == 0


def test_one_socket_is_not_for_both_servers(tmp_path, disk):
    done = fleece("disk.raw", "--nbd=unix:s", "--qmp=s", "--run", "true", folder=tmp_path)
    assert (done.returncode, done.stderr) == (
        1, "qmpfleece fleece: another server listens at 's'\n"
    )  # fmt: skip
    assert os.listdir(tmp_path) == ["disk.raw"]


@needs("nbdinfo")
def test_names_in_no_encoding_will_do(tmp_path, disk):
    names = [os.fsdecode(name) for name in (b"\xffdisk", b"\xfftemp", b"\xffs", b"\xffq")]
    disk.rename(tmp_path / names[0])
    options = ["--temp", names[1], "--nbd", f"unix:{names[2]}", "--qmp", names[3]]
    command = f'nbdinfo --size "$uri" && {QMPFLEECE} pull --quiet "$uri" out'
    words = [QMPFLEECE, "fleece", names[0], *options, "--run", command]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, f"{SIZE}\n".encode())
    assert done.stderr.startswith(b"disk      \xffdisk, ")
    assert sorted(os.listdir(tmp_path)) == ["out", names[0]]


def test_pull_does_not_replace_a_disk_in_use(tmp_path, disk):
    before = disk.stat().st_ino
    command = f'{QMPFLEECE} pull --quiet "$uri" disk.raw'
    done = fleece("disk.raw", "--run", command, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "qmpfleece pull: cannot write 'disk.raw': Failed to get \"write\" lock;"
        " is another process using it?\n"
    )
    assert disk.stat().st_ino == before
