"""What the human monitor says and prints is what qemu-system 7.2 says to the same lines."""

import re
import subprocess

import pytest

from tests.tools.desk import Desk
from tests.tools.programs import converse, needs

TIMES = re.compile(r"; \S+( sec)? \(.*\)|0:00:00\.\d\d,.*")
WARNING = re.compile(r".*QEMU waiting for connection.*\n")

LINES = [
    "info block -x", "info block -v -x", "info block -n -x", "block_resize -x n 1",
    "quit x", "q x", "stop x", "stop", "cont x", "help stop", "help q", "help c",
    'qemu-io\tn\t"read -q 0 512"', "info\tstatus",
    *(
        f'qemu-io n "{words}"'
        for words in [
            "write -P 5 0 64k", "read -P 5 0 64k", "read -P 6 1k 2k", "write 0 1k",
            "read -v 0 40", "read -v 1022 18", "read -q 0 1k", "read -C 0 1k", "read -p 0 512",
            "read -b 0 512",
            "read -s 2 -l 10 -P 3 0 100", "read -s 2 -l 10 -P 0xcd 0 100", "read -l 10 0 100",
            "read -s 200 -P 3 0 100", "read 0", "read", "read 0 1k 3", "read x 1k", "read 0 x",
            "read 0 1T", "read 1M 512", "read 1023k 2k", "read 0 0", "read -P 256 0 512",
            "read 1.5k 512", "write -z 0 64k", "write -z -u 0 64k", "write -u 0 1k",
            "write -n 0 1k", "write -f 0 1k", "write -zP 3 0 1k", "write -c 0 64k",
            "write -cf 0 64k", "write -bz 0 1k", "write -b 0 1k", "write -s /nonexist 0 1k",
            "write -q 0 1k",
            "write -C 0 1k", "write 0 1k 3", "write 2M 512", "write 0 512 -P 3", "write 3 5",
            "write -z 3 5", "aio_read -P 7 0 4k", "aio_read 0 3k 4k", "aio_read 2M 4k",
            "aio_read -i 0 1", "aio_read 0", "aio_write -P 3 0 4k", "aio_write -z 0 4k",
            "aio_write 2M 4k", "aio_write -z 0 3k 4k", "aio_write -u 0 4k", "aio_flush",
            "aio_flush x", "flush", "f", "flush x", "discard 0 64k", "discard -q 0 64k",
            "discard 2M 1k", "discard 0", "discard 0 x", "discard 0 3G", "discard 0 1", "map",
            "map x", "length",
            "length x", "break", "break a b c", "break read_aio A", "remove_break A",
            "remove_break", "wait_break", "resume", "resume A", "nosuch", "nosuch a b", "",
            "truncate 2M", "truncate 1M", "truncate", "truncate x", "l", "r 0 512", "w 0 512",
            "d 0 512",
            "alloc", "alloc 0", "alloc 0 64k", "a", "alloc x", "readv 0 512", "writev 0 512",
            "readv 2M 1",
            "writev 2M 1", "read -- 0 8", "  read  0   8 ", "help read", "help nosuch", "help map",
        ]
    ),
    *(
        f'qemu-io q "{words}"'
        for words in [
            "map", "alloc 0 1M", "alloc 64k 256k", "alloc 0 0", "alloc 1 100", "truncate 2000",
            "truncate 2M", "length",
            "write -c 128k 64k", "read -P 0xcd 128k 64k", "truncate 1M", "map", "discard 0 64k",
            "write -z 256k 64k", "read -P 0 256k 64k",
        ]
    ),
    *(f'qemu-io z "{words}"' for words in ["write 0 1k", "read 0 1k", "length", "flush",
    "discard 0 1", "truncate 1k", "write 0"]),
    'qemu-io nosuch "read 0 1"', 'qemu-io -d nosuch "read 0 1"', "qemu-io", "qemu-io n",
    "qemu-io n read 0 1", 'qemu-io n "', 'qemu-io -x n "read 0 1"', 'qemu-io n "\\x"',
    "qemu-io n 'read 0 1'", 'qemu-io "n" length', 'qemu-io n "len\\"gth"', "qemu-io -d",
    'qemu-io -dd n "length"', 'qemu-io "" length', "nosuch", "", "  ", "info nosuch",
    "info block", "info block -v", "info block n", "info block q", "info block -n n",
    "info block -n",
    "info block -v q", "info block -n -v n", "info block -v -n n", "info block a b",
    "info block nosuch", "info block-jobs", "info   block-jobs ", "info block-jobs x",
    "block_resize", "block_resize n", "block_resize n 2M", "block_resize n 2k x",
    "block_resize n x", "help qemu-io", "help block_resize", "help nosuch",
    {"node-name": "n", "size": 2097152}, {"node-name": "n", "size": -1}, {"size": 5},
    {"node-name": "nosuch", "size": 5}, {"device": "n", "size": 512}, {"node-name": "z",
    "size": 512},
    {"node-name": "q", "size": 1000}, {"node-name": "q", "size": 4194304},
    {"node-name": "odd", "size": 1024}, 'qemu-io n "length"', 'qemu-io q "length"',
]  # fmt: skip


def commands(line):
    if isinstance(line, str):
        return "human-monitor-command", {"command-line": line}
    return "block_resize", line


def make_images(path):
    run = subprocess.check_call
    (path / "n.raw").write_bytes(bytes(1 << 20))
    run(["qemu-img", "create", "-q", "-f", "qcow2", path / "q.qcow2", "1M"])
    run(
        ["qemu-io", "-c", "write 0 64k", "-c", "write 256k 128k", path / "q.qcow2"],
        stdout=subprocess.DEVNULL,
    )
    return [
        {"driver": "file", "node-name": "nf", "filename": f"{path}/n.raw"},
        {"driver": "raw", "node-name": "n", "file": "nf", "detect-zeroes": "on"},
        {"driver": "file", "node-name": "qf", "filename": f"{path}/q.qcow2"},
        {"driver": "qcow2", "node-name": "q", "file": "qf"},
        {"driver": "null-co", "node-name": "z", "size": 65536, "read-only": True},
        {"driver": "null-co", "node-name": "odd", "size": 1536},
    ]  # fmt: skip


def ask_qemu(nodes, lines):
    """Return (reply, what was printed) of each line."""
    program = ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none"]
    requests = [{"execute": "qmp_capabilities"}]
    requests += [{"execute": "blockdev-add", "arguments": node} for node in nodes]
    for line in lines:
        name, arguments = commands(line)
        requests.append({"execute": name, "arguments": arguments})
        mark = {"command-line": 'qemu-io odd ""'}
        requests.append({"execute": "human-monitor-command", "arguments": mark})
    return converse([*program, "-qmp", "stdio"], requests)[1 + len(nodes) :: 2]


@pytest.fixture
async def desk():
    desk = Desk()
    yield desk
    await desk.close()


async def ask(desk, capfd, line):
    capfd.readouterr()
    name, arguments = commands(line)
    reply = await desk.dispatcher.call(name, arguments)
    captured = capfd.readouterr()
    return reply, captured.err + captured.out


@needs("qemu-system-x86_64", "qemu-img", "qemu-io")
async def test_every_line_is_answered_and_printed_as_by_qemu(desk, tmp_path, capfd):
    (tmp_path / "a").mkdir()
    nodes = make_images(tmp_path / "a")
    theirs = ask_qemu(nodes, LINES)
    for image in (tmp_path / "a").iterdir():
        image.unlink()
    for options in make_images(tmp_path / "a"):
        assert await desk.say("blockdev-add", options) == {}
    differences = []
    for line, (reply, printed) in zip(LINES, theirs, strict=True):
        ours, text = await ask(desk, capfd, line)
        expected = TIMES.sub("TIMES", printed)
        got = TIMES.sub("TIMES", text)
        if (ours, got) != (reply, expected):
            differences.append((line, (reply, expected), (ours, got)))
    assert differences == []
