"""Drives that the comparison with QEMU can't show: temporary files, and what is not supported."""

import json
import os

import pytest

from tests.tools.programs import BIN, needs, run

QEMU = BIN / "qmpfleece-qemu"
QUIET = ("-nodefaults", "-display", "none", "-S", "-qmp", "stdio")


def asked(folder, *words: str, commands=(), environment=None, guessed=False):
    """Start with some options, run commands, quit; return what was replied and printed.

    ``guessed``: a warning is due that the format was guessed, and nothing else is.
    """
    lines = ["{'execute':'qmp_capabilities'}", *map(json.dumps, commands), "{'execute':'quit'}"]
    done = run(QEMU, *QUIET, *words, folder=folder, stdin="".join(lines), environment=environment)
    assert done.returncode == 0
    assert ("probing guessed raw" in done.stderr) if guessed else (done.stderr == "")
    return done.stdout


def returned(output):
    replies = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [reply["return"] for reply in replies if "return" in reply][1:-1]


def qemu_io(drive, command):
    line = f'qemu-io {drive} "{command}"'
    return {"execute": "human-monitor-command", "arguments": {"command-line": line}}


@pytest.mark.parametrize(
    "words", [("-drive", "id=x,snapshot=on"), ("-snapshot", "-drive", "id=x")]
)
def test_a_snapshot_takes_the_writes_and_leaves_the_disk_alone(tmp_path, words):
    (tmp_path / "d.raw").write_bytes(b"\x11" * (1 << 20))
    (tmp_path / "temporary").mkdir()
    *first, drive = words
    output = asked(
        tmp_path,
        *(*first, f"{drive},if=none,file=d.raw,format=raw"),
        commands=[
            qemu_io("x", "write -P 0x22 64k 64k"),
            qemu_io("x", "read -P 0x22 64k 64k"),
            qemu_io("x", "read -P 0x11 0 64k"),
            {"execute": "query-block"},
        ],
        environment={"TMPDIR": str(tmp_path / "temporary")},
    )
    assert "verification failed" not in output
    assert output.count("65536/65536 bytes") == 3
    shown = returned(output)[-1][0]["inserted"]
    assert shown["drv"] == "qcow2"
    assert shown["backing_file"] == "d.raw"
    assert shown["cache"]["no-flush"] is True
    assert (tmp_path / "d.raw").read_bytes() == b"\x11" * (1 << 20)
    assert os.listdir(tmp_path / "temporary") == []


@needs("qemu-img")
def test_a_backing_file_can_be_named_without_being_defined(tmp_path):
    for words in (("base", "1M"), ("-b", "base", "-F", "qcow2", "top")):
        assert run("qemu-img", "create", "-f", "qcow2", *words, folder=tmp_path).returncode == 0
    output = asked(
        tmp_path,
        *("-drive", "if=none,id=x,file=top,node-name=t,backing.node-name=b"),
        commands=[{"execute": "query-named-block-nodes", "arguments": {"flat": True}}],
    )
    nodes = {node["node-name"]: node for node in returned(output)[-1]}
    assert nodes["b"]["ro"] is True
    assert nodes["b"]["file"] == "base"
    assert nodes["t"]["ro"] is False


@pytest.mark.parametrize("words", [("-hda", "d.raw"), ("d.raw",), ("-drive", "file=d.raw")])
def test_a_disk_of_the_machine_is_a_backend_of_its_own_name(tmp_path, words):
    (tmp_path / "d.raw").write_bytes(bytes(1 << 20))
    output = asked(tmp_path, *words, commands=[{"execute": "query-block"}], guessed=True)
    assert [item["device"] for item in returned(output)[-1]] == ["ide0-hd0"]


@pytest.mark.parametrize("option", ["throttling.bps-total=1000", "copy-on-read=on", "bps=1000"])
def test_what_is_not_supported_is_refused(tmp_path, option):
    (tmp_path / "d.raw").write_bytes(bytes(1 << 20))
    drive = f"if=none,id=x,format=raw,file=d.raw,{option}"
    done = run(QEMU, *QUIET, "-drive", drive, folder=tmp_path)
    assert done.returncode == 1
    name = option.partition("=")[0]
    assert done.stderr == f"qmpfleece-qemu: -drive {drive}: '{name}' is not supported\n"


@pytest.mark.parametrize(
    ("value", "read_only"), [("on", True), ("yes", True), ("y", True), ("no", False)]
)
def test_a_snapshot_of_a_disk_for_reading_can_only_be_read(tmp_path, value, read_only):
    (tmp_path / "d.raw").write_bytes(bytes(1 << 20))
    drive = f"if=none,id=x,format=raw,file=d.raw,snapshot=on,readonly={value}"
    output = asked(tmp_path, "-drive", drive, commands=[{"execute": "query-block"}])
    assert returned(output)[-1][0]["inserted"]["ro"] is read_only


def test_a_name_in_json_of_too_many_levels_is_refused(tmp_path):
    layers = '{"driver":"raw",,"file":' * 1000
    name = f'json:{layers}{{"driver":"null-co"}}{"}" * 1000}'
    done = run(QEMU, *QUIET, "-drive", f"if=none,file={name}", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith(": JSON nesting depth limit exceeded\n")
