"""A monitor on standard input and output that are one thing, or lose who reads them."""

import contextlib
import fcntl
import json
import os
import pty
import socket
import subprocess
import termios

import pytest

from tests.tools.programs import BIN, PATIENCE_S, QSD, needs

QEMU = BIN / "qmpfleece-qemu"
MONITOR = ("--chardev", "stdio,id=c", "--monitor", "c")
MACHINE = ("-nodefaults", "-display", "none", "-S", "-machine", "none")

#: QEMU's program, and ours on each event loop.
daemons = pytest.mark.parametrize(
    ("daemon", "loop"),
    [
        pytest.param("qemu-storage-daemon", "", marks=needs("qemu-storage-daemon")),
        (QSD, "asyncio"),
        (QSD, "uvloop"),
    ],
)
machines = pytest.mark.parametrize(
    ("machine", "loop"),
    [
        pytest.param("qemu-system-x86_64", "", marks=needs("qemu-system-x86_64")),
        (QEMU, "asyncio"),
        (QEMU, "uvloop"),
    ],
)


@contextlib.contextmanager
def started(command, stdin, stdout, loop):
    with subprocess.Popen(
        [str(word) for word in command],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=os.environ | {"QMPFLEECE_LOOP": loop},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def end(process):
    """Wait for the end that was asked for; return the exit status and stderr."""
    return process.wait(PATIENCE_S), process.stderr.read()


@contextlib.contextmanager
def terminal():
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


def read_until(fd, wanted):
    seen = b""
    while wanted not in seen:
        piece = os.read(fd, 4096)
        assert piece, f"the end came after {seen!r}"
        seen += piece
    return seen


@daemons
def test_one_socket_is_input_and_output(daemon, loop):
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("r") as lines:
        ours.settimeout(PATIENCE_S)
        with started((daemon, *MONITOR), stdin=theirs, stdout=theirs, loop=loop) as process:
            assert "QMP" in json.loads(lines.readline())
            for command in ("qmp_capabilities", "quit"):
                ours.sendall(f'{{"execute": "{command}"}}\n'.encode())
                assert json.loads(lines.readline()) == {"return": {}}
            assert end(process) == (0, b"")
        assert not fcntl.fcntl(theirs, fcntl.F_GETFL) & os.O_NONBLOCK


@daemons
def test_one_terminal_is_input_and_output_and_is_left_as_it_was(daemon, loop):
    with terminal() as (ours, theirs):
        before = termios.tcgetattr(theirs)
        with started((daemon, *MONITOR), stdin=theirs, stdout=theirs, loop=loop) as process:
            read_until(ours, b"\n")
            for command in (b"qmp_capabilities", b"quit"):
                os.write(ours, b'{"execute": "%s"}\n' % command)
                read_until(ours, b'{"return": {}}')
            assert end(process) == (0, b"")
        assert termios.tcgetattr(theirs) == before
        assert not fcntl.fcntl(theirs, fcntl.F_GETFL) & os.O_NONBLOCK


@daemons
def test_what_is_typed_is_not_taken_from_a_terminal_for_output_only(daemon, loop):
    with terminal() as (ours, theirs):
        with started(
            (daemon, *MONITOR), stdin=subprocess.PIPE, stdout=theirs, loop=loop
        ) as process:
            read_until(ours, b"\n")
            os.write(ours, b"typed\n")
            process.stdin.write(b'{"execute": "qmp_capabilities"}{"execute": "quit"}')
            process.stdin.flush()
            read_until(ours, b'{"return": {}}\r\r\n{"return": {}}')
            assert end(process) == (0, b"")
        assert os.read(theirs, 100) == b"typed\n"


@machines
def test_a_persons_terminal_is_drawn_by_the_monitor_and_is_left_as_it_was(machine, loop):
    command = (machine, *MACHINE, "-monitor", "stdio")
    with terminal() as (ours, theirs):
        before = termios.tcgetattr(theirs)
        with started(command, stdin=theirs, stdout=theirs, loop=loop) as process:
            read_until(ours, b"(qemu) ")
            os.write(ours, b"q\r")
            assert read_until(ours, b"\n") == b"q\x1b[K\r\r\n"
            assert end(process) == (0, b"")
        assert termios.tcgetattr(theirs) == before


@daemons
def test_commands_go_on_when_nobody_reads_the_output(daemon, loop, tmp_path):
    source, target = tmp_path / "s.raw", tmp_path / "t.qcow2"
    source.write_bytes(bytes(1 << 16))
    reads, writes = os.pipe()
    disk = ("--blockdev", f"file,node-name=s,filename={source}")
    with started(
        (daemon, *disk, *MONITOR), stdin=subprocess.PIPE, stdout=writes, loop=loop
    ) as process:
        os.close(writes)
        read_until(reads, b"\n")
        os.close(reads)
        for name, arguments in (
            ("qmp_capabilities", {}),
            ("query-version", {}),
            ("blockdev-snapshot-sync",
             {"node-name": "s", "snapshot-file": str(target), "snapshot-node-name": "t"}),
            ("quit", {}),
        ):  # fmt: skip
            said = json.dumps({"execute": name, "arguments": arguments})
            process.stdin.write(f"{said}\n".encode())
        process.stdin.flush()
        assert end(process) == (0, b"")
    assert target.read_bytes().startswith(b"QFI\xfb")


def say(machine, keys):
    """Return what a machine's human monitor writes after its prompt."""
    done = subprocess.run(
        [str(machine), *MACHINE, "-monitor", "stdio"],
        input=keys + b"quit\n",
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.partition(b"(qemu) ")[2]


@needs("qemu-system-x86_64")
@pytest.mark.parametrize(
    "keys",
    [
        b"x\xe2\x82\xacy\x7f\x7f\b\n",  # in the middle of a letter
        b"\b\x7fa\x15\xff\n",
        b"a\x1b[15~b\x1bOPc\x1bxd\x1b[1;5Ce\x9b3Bf\n",  # what terminals send for other keys
    ],
)
def test_a_line_is_edited_byte_by_byte_as_qemu_does(keys):
    assert say(QEMU, keys) == say("qemu-system-x86_64", keys)


def test_a_persons_line_has_4095_bytes_and_no_more():
    assert b"unknown command: '%s'\r\n" % (b"x" * 4095) in say(QEMU, b"x" * 5000 + b"\n")
