"""Texts are those of the real qemu-system-x86_64 7.2, but for the program's name."""

import asyncio
import json
import os
import socket
import subprocess

import pytest

from qmpfleece import __version__
from qmpfleece.cli import chardev, qemu, qtest
from tests.tools.programs import BIN, Qmp, needs, run, running

QEMU = BIN / "qmpfleece-qemu"
#: How the line begins that tells that one of these tests has ended it.
ENDED = f"{QEMU.name}: terminating on signal 15 from pid {os.getpid()} ("
QUIET = ("-nodefaults", "-display", "none", "-S")
NULL = "null-co,node-name=n,read-zeroes=on"


@pytest.fixture
def refused(capsys):
    """Return what the program says before it ends with status 1; run in this process."""

    def refuse(*arguments: str):
        assert qemu.main([*QUIET, *arguments], program="P") == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err.removesuffix("\n")

    return refuse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-bogus"], "-bogus: invalid option"),
        (["--bogus"], "--bogus: invalid option"),
        (["-blockde", NULL], "-blockde: invalid option"),
        ([f"--blockdev={NULL}"], f"--blockdev={NULL}: invalid option"),
        (["--"], "--: invalid option"),
        (["-blockdev"], "-blockdev: requires an argument"),
        (["-uuid", "x", "-bogus"], "-bogus: invalid option"),
        (["-uuid", "x"], "-uuid x: failed to parse UUID string: wrong format"),
        (["-name", "a=b"], "-name a=b: Invalid parameter 'a'"),
        (["-object", "bogus,id=x"],
         "-object bogus,id=x: Parameter 'qom-type' does not accept value 'bogus'"),
        (["-object", "secret,id=x"], "Either 'file' or 'data' must be provided"),
        (["-blockdev", "null-co"],
         "-blockdev null-co: 'node-name' must be specified for the root node"),
        (["-device", "id=x"], "-device id=x: Parameter 'driver' is missing"),
        (["-device", "scsi-hd,drive=x"],
         "-device scsi-hd,drive=x: No 'SCSI' bus found for device 'scsi-hd'"),
        (["-machine", "foo"],
         "unsupported machine type\nUse -machine help to list supported machines"),
        (["-accel", "foo"], "-accel foo: invalid accelerator foo"),
        (["-machine", "q35,accel=foo"], "invalid accelerator foo"),
        (["-incoming", "foo"], "-incoming foo: unknown migration protocol: foo"),
        (["-add-fd", "fd=0,set=1"], "-add-fd fd=0,set=1: fd cannot be a standard I/O stream"),
        (["-add-fd", "fd=99,set=1"], "-add-fd fd=99,set=1: fd is not valid or already in use"),
        (["-mon", "x"], '-mon x: chardev "x" not found'),
        (["-mon", "mode=control"], "-mon mode=control: Parameter 'chardev' is missing"),
        (["-chardev", "null,id=a", "-mon", "a", "-mon", "a"], "-mon a: Device 'a' is in use"),
        (["-qmp", "stdio", "-monitor", "stdio"],
         "-monitor stdio: cannot use stdio by multiple character devices"),
        (["-qmp", "unix:/no/x"],
         "-qmp unix:/no/x: Failed to connect to '/no/x': No such file or directory"),
        (["-pidfile", "/no/such/x"],
         "cannot create PID file: Could not create '/no/such/x': No such file or directory"),
        (["-drive", "if=none,id=x", "-drive", "if=none,id=x"],
         "-drive if=none,id=x: Duplicate ID 'x' for drive"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_gets_qemus_words(refused, arguments, message):
    assert refused(*arguments) == f"P: {message}"


@pytest.mark.parametrize(
    ("arguments", "first", "second"),
    [
        (["-qmp", "bogus"], "-qmp bogus: 'bogus' is not a valid char driver",
         "-qmp bogus: parse error: bogus"),
        (["-qtest", "unix:/no/x"], "Failed to connect to '/no/x': No such file or directory",
         'Failed to initialize device for qtest: "unix:/no/x"'),
        (["-serial", "foo"], "-serial foo: 'foo' is not a valid char driver",
         "-serial foo: could not connect serial device to character backend 'foo'"),
    ],
)  # fmt: skip
def test_some_errors_take_two_lines(refused, arguments, first, second):
    assert refused(*arguments) == f"P: {first}\nP: {second}"


@pytest.mark.parametrize(
    ("wrong", "earlier"),
    [
        (["-device", "bogus"], ["-mon", "zz"]),
        (["-mon", "zz"], ["-drive", "if=bogus"]),
        (["-drive", "if=bogus"], ["-blockdev", "null-co"]),
        (["-blockdev", "null-co"], ["-chardev", "socket,id=c,path=/no/c"]),
        (["-chardev", "socket,id=c,path=/no/c"], ["-object", "secret,id=x"]),
        (["-object", "secret,id=x"], ["-pidfile", "/no/such/x"]),
    ],
)
def test_kinds_of_things_are_made_in_qemus_order_whatever_the_order_given(refused, wrong, earlier):
    assert refused(*wrong, *earlier) == refused(*earlier)


def test_any_option_may_have_two_dashes():
    words = [f"-{word}" if word.startswith("-") else word for word in (*QUIET, "-qmp", "stdio")]
    done = run(QEMU, *words, stdin='{"execute": "qmp_capabilities"} {"execute": "quit"}')
    assert (done.returncode, done.stderr) == (0, "")


def test_options_about_the_other_half_of_a_machine_are_taken():
    words = (
        *("-nographic", "-vga", "none", "-machine", "q35", "-M", "pc", "-accel", "kvm"),
        *("-accel", "tcg", "-cpu", "host", "-m", "1G", "-no-shutdown", "-serial", "null"),
        *("-parallel", "none", "-monitor", "none", "-incoming", "defer", "-smp", "4"),
    )
    done = run(
        QEMU,
        *QUIET,
        *words,
        "-qmp",
        "stdio",
        stdin="{'execute':'qmp_capabilities'}{'execute':'quit'}",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_quit_is_answered_told_and_the_last_word(tmp_path):
    asked = "{'execute':'qmp_capabilities'} {'execute':'query-status'} {'execute':'quit'}"
    done = run(QEMU, *QUIET, "-qmp", "stdio", stdin=asked)
    assert (done.returncode, done.stderr) == (0, "")
    _greeting, _, status, answer, event = map(json.loads, done.stdout.splitlines())
    assert status["return"] == {"running": False, "singlestep": False, "status": "prelaunch"}
    assert answer == {"return": {}}
    assert event["event"] == "SHUTDOWN"
    assert event["data"] == {"guest": False, "reason": "host-qmp-quit"}


def test_the_end_of_stdin_does_not_end_it_and_a_signal_is_told(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "q"))
        listener.listen()
        listener.settimeout(20)
        words = (*QUIET, "-chardev", "socket,id=m,path=q", "-mon", "m,mode=control")
        # stdin is /dev/null, at its end from the start.
        with running(
            QEMU, *words, "-monitor", "stdio", "-pidfile", "p", folder=tmp_path
        ) as program:
            client, _ = listener.accept()
            with client, client.makefile("rw") as lines:
                assert "QMP" in json.loads(lines.readline())
                lines.write("{'execute':'qmp_capabilities'}")
                lines.flush()
                assert json.loads(lines.readline()) == {"return": {}}
                assert (tmp_path / "p").read_text() == f"{program.process.pid}\n"
                program.process.terminate()
                event = json.loads(lines.readline())
                assert event["data"] == {"guest": False, "reason": "host-signal"}
            status, _, errors = program.end()
            assert status == 0
            assert errors.startswith(ENDED)
    assert os.listdir(tmp_path) == ["q"]


def test_another_signal_does_not_kill_it_while_it_ends(tmp_path):
    command = (QEMU, *QUIET, "-qmp", "unix:q,server=on,wait=off")
    with running(*command, folder=tmp_path) as program:
        program.wait_for(tmp_path / "q")
        with Qmp(tmp_path / "q") as qmp, Qmp(tmp_path / "q") as slow:
            for _ in range(8):  # more than the socket holds: the end waits for the client
                slow.send("query-qmp-schema", {})
            qmp.execute("query-qmp-schema")
            program.process.terminate()
            qmp.wait_for("SHUTDOWN")
            status, _, errors = program.end()
    assert status == 0
    assert errors.startswith(ENDED)
    assert os.listdir(tmp_path) == []


def test_name_and_uuid_are_told():
    words = (
        "-name",
        "guest=fred,debug-threads=on",
        "-uuid",
        "12345678-ABCD-ef00-0000-00000000000a",
    )
    asked = "{'execute':'qmp_capabilities'}{'execute':'query-name'}{'execute':'query-uuid'}"
    done = run(QEMU, *QUIET, *words, "-qmp", "stdio", stdin=asked + "{'execute':'quit'}")
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert replies[2]["return"] == {"name": "fred"}
    assert replies[3]["return"] == {"UUID": "12345678-abcd-ef00-0000-00000000000a"}


def test_qmp_pretty_indents():
    done = run(
        QEMU,
        *QUIET,
        "-qmp-pretty",
        "stdio",
        stdin="{'execute':'qmp_capabilities'}{'execute':'quit'}",
    )
    assert done.stdout.startswith('{\n    "QMP": {\n')


def test_a_person_sees_the_line_redrawn_the_answer_and_a_prompt():
    done = subprocess.run(
        [QEMU, *QUIET, "-monitor", "stdio"],
        input=b"info status\nq\n",
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(
        b"QEMU 7.2.0 monitor - type 'help' for more information\r\n(qemu) "
    )
    assert b"(qemu) i\x1b[K\x1b[Din\x1b[K\x1b[D\x1b[Dinf\x1b[K" in done.stdout
    assert b"\r\nVM status: paused (prelaunch)\r\n(qemu) " in done.stdout
    assert done.stdout.endswith(b"(qemu) q\x1b[K\r\n")


def test_qtest_steps_the_clock(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "t"))
        listener.listen()
        listener.settimeout(20)
        with running(QEMU, *QUIET, "-qtest", "unix:path=t", folder=tmp_path) as program:
            client, _ = listener.accept()
            with client, client.makefile("rw") as lines:
                for line, answer in (
                    ("clock_step 1000", "OK 1000"),
                    ("clock_step 234", "OK 1234"),
                    ("bogus 1", "FAIL Unknown command 'bogus'"),
                    ("x" * 200_000, f"FAIL Unknown command '{'x' * 200_000}'"),
                    ("endianness", "OK little"),
                    (f"clock_step 0x{'f' * 5000}", "FAIL invalid number"),
                    ("clock_step", "OK 1234"),
                ):
                    lines.write(f"{line}\n")
                    lines.flush()
                    assert lines.readline() == f"{answer}\n"
            assert program.end()[0] == 0


async def test_a_line_for_qtest_that_is_too_long_ends_its_client_and_no_other(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(qtest, "_MAX_LINE", 100)
    path = str(tmp_path / "t")
    device = await chardev.create(
        {"id": "c", "backend": "socket", "path": path, "server": "on", "wait": "off"}, print
    )
    served = qtest.QTest(device)
    for line, answer in ((b"x" * 1000 + b"\n", b""), (b"endianness\n", b"OK little\n")):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line)
        assert await reader.readline() == answer
        writer.close()
    await served.close()


@pytest.mark.parametrize(
    ("option", "lines"),
    [
        (["-machine", "help"], ["Supported machines are:"]),
        (["-device", "help"],
         ['name "virtio-scsi-pci", bus PCI, alias "virtio-scsi"', 'name "scsi-hd", bus SCSI, desc '
          '"virtual SCSI disk"', 'name "virtio-blk-pci", bus PCI, alias "virtio-blk"']),
        (["-accel", "help"], ["tcg"]),
        (["-object", "help"], ["  throttle-group"]),
        (["-version"], [f"QEMU emulator version 7.2.0 (qmpfleece {__version__})"]),
    ],
)  # fmt: skip
def test_what_there_is_is_listed(option, lines):
    done = run(QEMU, *option)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(lines) <= set(done.stdout.splitlines())


def test_formats_are_listed_in_two_lines():
    first, second = run(QEMU, "-drive", "format=help").stdout.splitlines()
    assert first.startswith("Supported formats: blkdebug copy-before-write file ")
    assert second.startswith("Supported formats (read-only): ")
    assert "qcow2" in first.split()


@needs("qemu-system-x86_64")
@pytest.mark.parametrize("device", ["virtio-blk", "virtio-scsi", "scsi-hd", "scsi-cd"])
def test_properties_of_devices_are_those_of_the_real_ones(device):
    real = run("qemu-system-x86_64", "-device", f"{device},help")
    assert run(QEMU, "-device", f"{device},help").stdout == real.stdout


def test_a_link_s_name_is_the_program_s_name(tmp_path):
    (tmp_path / "qemu-system-x86_64").symlink_to(QEMU)
    done = run(tmp_path / "qemu-system-x86_64", "-bogus")
    assert (done.returncode, done.stderr) == (1, "qemu-system-x86_64: -bogus: invalid option\n")


def test_the_text_of_qemu_io_is_out_before_the_reply():
    write = (
        "{'execute':'human-monitor-command','arguments':{'command-line':'qemu-io n \\\"%s\\\"'}}"
    )
    asked = "{'execute':'qmp_capabilities'}" + write % "read 0 64k" + "{'execute':'quit'}"
    done = run(QEMU, *QUIET, "-blockdev", NULL, "-qmp", "stdio", stdin=asked)
    lines = done.stdout.splitlines()
    text = next(i for i, line in enumerate(lines) if line.startswith("read 65536/65536 bytes"))
    assert json.loads(lines[text + 2]) == {"return": ""}


def test_a_failed_start_leaves_no_file(tmp_path):
    done = run(
        *(QEMU, "-qmp", "unix:q,server=on,wait=off", "-pidfile", "p", "-device", "bogus"),
        folder=tmp_path,
    )
    assert done.returncode == 1
    assert os.listdir(tmp_path) == []


def test_a_listening_monitor_takes_clients(tmp_path):
    words = (*QUIET, "-qmp", "unix:q,server,nowait", "-pidfile", "p")
    with running(QEMU, *words, folder=tmp_path) as program:
        program.wait_for(tmp_path / "q")
        with Qmp(tmp_path / "q") as qmp:
            assert qmp.execute("query-block") == []
        status, output, errors = program.end()
    assert (status, output) == (0, "")
    assert errors.startswith(ENDED)
