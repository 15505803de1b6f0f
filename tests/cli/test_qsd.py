"""Texts are those of the real qemu-storage-daemon 7.2, but for the program's name."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys

import pytest

from qmpfleece.cli import qsd
from qmpfleece.cli.scan import Option
from qmpfleece.cli.start import OptionError, at
from tests.tools.programs import QMPFLEECE, QSD, Qmp, needs, run, running

NULL = "null-co,node-name=n,size=1048576"


@pytest.fixture
def refused(capsys):
    """Return what the program says before it ends with status 1; run in this process."""

    def refuse(*arguments: str):
        assert qsd.main(arguments, program="qmpfleece-qsd") == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("qmpfleece-qsd: ")
        return printed.err.removeprefix("qmpfleece-qsd: ").removesuffix("\n")

    return refuse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "unrecognized option '--bogus'"),
        (["--blockdev", NULL, "foo"], "foo: Unexpected argument"),
        (["--blockdev"], "option '--blockdev' requires an argument"),
        (["--pidfile", "/no/such/x"],
         "cannot create PID file: Could not create '/no/such/x': No such file or directory"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_gets_qemus_words(refused, arguments, message):
    assert refused(*arguments) == message


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("blockdev", "bogus", "Parameter 'driver' does not accept value 'bogus'"),
        ("blockdev", "null-co,size=abc", "Parameter 'size' expects integer"),
        ("blockdev", "null-co", "'node-name' must be specified for the root node"),
        ("blockdev", '{"driver":"null-co"', "JSON parse error, premature EOI"),
        ("blockdev", '{"driver":"null-co"}}', "Expecting at most one JSON value"),
        ("blockdev", '{"driver":}', "JSON parse error, expecting value"),
        ("blockdev", '{"driver":"null-co","size":"1"}',
         "Invalid parameter type for 'size', expected: integer"),
        ("blockdev", "raw,node-name=r,file=x", "Cannot find device='x' nor node-name='x'"),
        ("blockdev", "file,node-name=f,filename=/no/such",
         "Could not open '/no/such': No such file or directory"),
        ("nbd-server", "addr.type=unix", "Parameter 'addr.path' is missing"),
        ("nbd-server", "unix", "Expected '=' after parameter 'unix'"),
        ("nbd-server", "addr.type=foo", "Parameter 'type' does not accept value 'foo'"),
        ("nbd-server", "addr.type=unix,addr.path=/no/such/s",
         "Failed to bind socket to /no/such/s: No such file or directory"),
        ("nbd-server", "addr.type=unix,addr.path=s,tls-creds=foo",
         "No TLS credentials with id 'foo'"),
        ("export", "", "Parameter 'type' is missing"),
        ("export", "nbd,id=a", "Parameter 'node-name' is missing"),
        ("export", "nbd,id=a,node-name=n", "Cannot find device='' nor node-name='n'"),
        ("chardev", "socket,path=q,server=on", "chardev: no id specified"),
        ("chardev", "bogus,id=c", "'bogus' is not a valid char driver name"),
        ("chardev", "id=c", 'chardev: "c" missing backend'),
        ("chardev", "socket,id=c,host=localhost", "chardev: socket: no port given"),
        ("chardev", "socket,id=c,path=/no/such/x",
         "Failed to connect to '/no/such/x': No such file or directory"),
        ("chardev", "socket,id=c,path=q,server=on,telnet=on",
         "chardev: socket: 'telnet' is not supported"),
        ("chardev", "socket,id=c,path=q,reconnect=1",
         "chardev: socket: 'reconnect' is not supported"),
        ("monitor", "", "Parameter 'chardev' is missing"),
        ("monitor", "c", 'chardev "c" not found'),
        ("object", "secret,id=x", "Either 'file' or 'data' must be provided"),
        ("object", "secret,id=1,data=x", "Parameter 'id' expects an identifier\nIdentifiers "
         "consist of letters, digits, '-', '.', '_', starting with a letter."),
        ("export", "zzz", "Parameter 'type' does not accept value 'zzz'"),
        ("object", "main-loop,id=x", "Parameter 'qom-type' does not accept value 'main-loop'"),
        ("object", "throttle-group,id=x,limits.bps-total=1,x-bps-read=1",
         "bps/iops/max total values and read/write values cannot be used at the same time"),
        ("object", "bogus,id=x", "Parameter 'qom-type' does not accept value 'bogus'"),
    ],
)  # fmt: skip
def test_an_option_that_can_not_be_done_is_named(refused, option, value, message):
    assert refused(f"--{option}", value) == f"--{option} {value}: {message}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--blockdev", NULL, "--blockdev", NULL], "Duplicate nodes with node-name='n'"),
        (["--blockdev", NULL, "--export", "nbd,id=a,node-name=n"], "NBD server not running"),
        (["--object", "iothread,id=x", "--object", "throttle-group,id=x"],
         "attempt to add duplicate property 'x' to object (type 'container')"),
        (["--chardev", "stdio,id=c", "--monitor", "c,mode=readline"], "Only QMP is supported"),
        (["--chardev", "stdio,id=c", "--monitor", "c", "--monitor", "c"], "Device 'c' is in use"),
        (["--chardev", "stdio,id=c", "--chardev", "stdio,id=d"],
         "cannot use stdio by multiple character devices"),
    ],
)  # fmt: skip
def test_options_are_processed_in_the_order_given(refused, arguments, message):
    assert refused(*arguments) == f"{arguments[-2]} {arguments[-1]}: {message}"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--chardev", "stdio,id=c", "cannot use stdio with -daemonize"),
        ("--blockdev", "bogus", "Parameter 'driver' does not accept value 'bogus'"),
    ],
)
def test_a_start_in_the_background_that_fails_has_status_1(option, value, message):
    done = run(QSD, "--daemonize", option, value)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"qmpfleece-qsd: {option} {value}: {message}\n"


def test_a_failed_start_leaves_no_file(tmp_path):
    done = run(
        QSD,
        *("--chardev", "socket,id=c,path=q,server=on,wait=off", "--monitor", "c"),
        *("--nbd-server", "addr.type=unix,addr.path=s", "--pidfile", "p", "--blockdev", "bogus"),
        folder=tmp_path,
    )
    assert done.returncode == 1
    assert os.listdir(tmp_path) == []


def test_help_and_version_are_printed_before_anything_is_done():
    done = run(QSD, "-h", "--bogus")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("--blockdev", "--nbd-server", "copy-before-write", "snapshot-access"):
        assert word in done.stdout
    assert re.fullmatch(r"qmpfleece-qsd version \S+ .*\n", run(QSD, "--vers").stdout)
    assert "secret" in run(QSD, "--object", "help").stdout


def test_serve_is_the_same_program_by_another_name():
    done = run(QMPFLEECE, "serve", "--monitor", "c")
    assert done.returncode == 1
    assert done.stderr == 'qmpfleece serve: --monitor c: chardev "c" not found\n'


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_stdio_is_a_monitor_and_quit_ends_with_status_0(loop):
    commands = '{"execute": "qmp_capabilities"} {"execute": "query-status"} {"execute": "quit"}'
    done = run(
        *(QSD, "--chardev", "stdio,id=c", "--monitor", "c"),
        stdin=commands,
        environment={"QMPFLEECE_LOOP": loop},
    )
    assert (done.returncode, done.stderr) == (0, "")
    greeting, *replies = map(json.loads, done.stdout.splitlines())
    assert "QMP" in greeting
    assert replies[0] == {"return": {}}
    assert replies[1]["return"]["running"] is True
    assert replies[2] == {"return": {}}


def test_an_unknown_event_loop_is_refused():
    done = run(QSD, environment={"QMPFLEECE_LOOP": "trio"})
    assert done.returncode == 1
    assert "QMPFLEECE_LOOP must be asyncio or uvloop, not 'trio'" in done.stderr
    assert "Traceback" not in done.stderr


@needs("nbdinfo")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_status_0_and_leaves_nothing(tmp_path, number):
    (tmp_path / "d.raw").write_bytes(bytes(1 << 20))
    command = (
        *(QSD, "--chardev", "socket,id=c,path=q,server=on,wait=off", "--monitor", "c"),
        *("--blockdev", "file,node-name=d,filename=d.raw"),
        *("--nbd-server", "addr.type=unix,addr.path=s"),
        *("--export", "nbd,id=e,node-name=d,name=disk,writable=on", "--pidfile", "p"),
    )
    with running(*command, folder=tmp_path) as daemon:
        daemon.wait_for(tmp_path / "p", filled=True)
        assert (tmp_path / "p").read_text() == f"{daemon.process.pid}\n"
        uri = "nbd+unix:///disk?socket=s"
        assert run("nbdinfo", "--size", uri, folder=tmp_path).stdout == "1048576\n"
        with Qmp(tmp_path / "q") as qmp:
            assert [node["node-name"] for node in qmp.execute("query-named-block-nodes")] == ["d"]
            assert daemon.end(number) == (0, "", "")
    assert os.listdir(tmp_path) == ["d.raw"]


def test_the_background_daemon_outlives_its_parent_and_removes_its_files(tmp_path):
    done = run(
        *(QSD, "--daemonize", "--pidfile", "p", "--nbd-server", "addr.type=unix,addr.path=s"),
        *("--chardev", "socket,id=c,path=q,server=on,wait=off", "--monitor", "c"),
        folder=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(os.listdir(tmp_path)) == ["p", "q", "s"]
    pid = int((tmp_path / "p").read_text())
    again = run(QSD, "--pidfile", tmp_path / "p")
    assert again.returncode == 1
    assert "Cannot lock pid file: Resource temporarily unavailable" in again.stderr
    watch = os.pidfd_open(pid)
    try:
        with Qmp(tmp_path / "q") as qmp:
            assert qmp.execute("quit") == {}
        assert select.select([watch], [], [], 20)[0]
    finally:
        os.close(watch)
    assert os.listdir(tmp_path) == []


def test_a_socket_with_a_whole_name_needs_no_working_directory(tmp_path):
    (tmp_path / "gone").mkdir()
    words = f"{QSD} --chardev socket,id=c,path={tmp_path}/q,server=on,wait=off --monitor c"
    command = ("sh", "-c", f"rmdir ../gone && exec {words}")
    with running(*command, folder=tmp_path / "gone") as daemon:
        daemon.wait_for(tmp_path / "q")
        with Qmp(tmp_path / "q") as qmp:
            assert qmp.execute("query-status")["status"] == "running"
        assert daemon.end()[0] == 0
    assert os.listdir(tmp_path) == []


def test_who_starts_a_background_daemon_is_told_why_it_fails_before_its_command_ends(tmp_path):
    # The parent lives as long as its pipe to the daemon, which must not end before the message.
    option = ("--daemonize", "--blockdev", "driver=zzz")
    script = (
        "import os, sys\n"
        "from qmpfleece.cli import qsd, start\n"
        "def complain(program, text):\n"
        "    links = [os.readlink(f'/proc/self/fd/{n}') for n in range(3, 64)\n"
        "             if os.path.exists(f'/proc/self/fd/{n}')]\n"
        "    print(sum(link.startswith('pipe:') for link in links), text, flush=True)\n"
        "start.complain = complain\n"
        f"sys.exit(qsd.main({option!r}, program='qsd'))\n"
    )
    own = {"QMPFLEECE_LOOP": "asyncio"}  # it leaves no pipes of its own open
    done = run(sys.executable, "-c", script, folder=tmp_path, environment=own)
    assert done.returncode == 1
    assert done.stdout.startswith("1 --blockdev driver=zzz: ")


def test_in_a_directory_that_is_gone_no_socket_can_be_made(tmp_path):
    (tmp_path / "gone").mkdir()
    option = "--nbd-server addr.type=unix,addr.path=s"
    command = ("sh", "-c", f"rmdir ../gone && exec {QSD} --daemonize {option}")
    done = run(*command, folder=tmp_path / "gone")
    reason = "Failed to bind socket to s: No such file or directory"
    assert (done.returncode, done.stderr) == (1, f"qmpfleece-qsd: {option}: {reason}\n")


def test_what_the_system_refuses_while_an_option_is_processed_is_told_with_it():
    option = Option("chardev", "null,id=c", "--chardev null,id=c")
    with pytest.raises(OptionError) as caught, at(option):
        os.dup(-1)
    assert caught.value.texts == ("--chardev null,id=c: Bad file descriptor",)


def test_a_monitor_whose_socket_has_no_name_gets_one(tmp_path):
    chardevs = ("--chardev", "socket,id=c,path=,server=on,wait=off", "--chardev", "stdio,id=s")
    said = "".join(f'{{"execute":"{word}"}}' for word in ("qmp_capabilities", "query-chardev"))
    folder = {"TMPDIR": str(tmp_path)}
    words = (*chardevs, "--monitor", "c", "--monitor", "s")
    done = run(QSD, *words, stdin=f'{said}{{"execute":"quit"}}', environment=folder)
    assert f"disconnected:unix:{tmp_path}/qemu-socket-" in done.stdout
    assert os.listdir(tmp_path) == []


def test_a_socket_with_wait_lets_the_start_wait_for_its_client(tmp_path):
    command = (
        QSD,
        "--chardev",
        "socket,id=c,path=q,server=on",
        "--monitor",
        "c",
        "--pidfile",
        "p",
    )
    with running(*command, folder=tmp_path) as daemon:
        daemon.wait_for(tmp_path / "q")
        assert daemon.process.stderr.readline() == (
            "qmpfleece-qsd: --chardev socket,id=c,path=q,server=on: info: QEMU waiting for "
            "connection on: disconnected:unix:q,server=on\n"
        )
        assert not (tmp_path / "p").exists()
        with Qmp(tmp_path / "q") as qmp:
            daemon.wait_for(tmp_path / "p", filled=True)
            assert qmp.execute("query-status")["status"] == "running"
        assert daemon.end()[0] == 0
    assert os.listdir(tmp_path) == []


def test_a_signal_ends_it_also_while_it_waits_for_its_client(tmp_path):
    command = (QSD, "--chardev", "socket,id=c,path=q,server=on", "--monitor", "c")
    with running(*command, folder=tmp_path) as daemon:
        assert "waiting for connection" in daemon.process.stderr.readline()
        assert daemon.end()[0] == 0
    assert os.listdir(tmp_path) == []


def test_a_socket_without_server_calls_who_listens(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "q"))
        listener.listen()
        listener.settimeout(20)
        command = (QSD, "--chardev", "socket,id=c,path=q", "--monitor", "c,pretty=on")
        with running(*command, folder=tmp_path) as daemon:
            client, _ = listener.accept()
            with client, client.makefile("r") as lines:
                assert lines.readline() == "{\n"
            assert daemon.end()[0] == 0


def test_an_object_may_be_json_and_its_help_is_printed():
    done = run(QSD, "--object", "{'qom-type': 'secret', 'id': 's', 'data': 'x'}", "--monitor", "c")
    assert 'chardev "c" not found' in done.stderr
    for asking in ("secret,help", "qom-type=secret,?", "secret,id=s,help"):
        assert run(QSD, "--object", asking).stdout == (
            "secret options:\n  data=<string>\n  file=<string>\n"
            "  format=<QCryptoSecretFormat>\n  iv=<string>\n  keyid=<string>\n"
        )
    for asking in ("help", "?", "bogus,help"):
        assert run(QSD, "--object", asking).stdout == (
            "List of user creatable objects:\n  iothread\n  secret\n  throttle-group\n"
        )


def test_a_link_s_name_is_the_program_s_name(tmp_path):
    (tmp_path / "storage-daemon").symlink_to(QSD)
    done = subprocess.run(
        [tmp_path / "storage-daemon", "--bogus"], capture_output=True, text=True, check=False
    )
    assert done.stderr == "storage-daemon: unrecognized option '--bogus'\n"
