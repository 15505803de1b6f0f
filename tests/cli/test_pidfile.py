import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.cli.pidfile import PidFile

_AT_ONCE = 4
_ROUNDS = 200


def make(path, all_there, results, all_have_tried):
    """Make the file together with others; keep it until all have tried."""
    for _ in range(_ROUNDS):
        all_there.wait()
        try:
            file = PidFile(path)
        except QmpError as error:
            file = None
            results.put(error.desc)
        else:
            results.put(os.getpid())
        all_have_tried.wait()
        if file is not None:
            file.remove()


def test_one_of_several_that_start_at_once_has_the_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    barriers = [context.Barrier(_AT_ONCE) for _ in range(2)]
    results = context.SimpleQueue()
    arguments = (str(tmp_path / "p"), barriers[0], results, barriers[1])
    processes = [
        context.Process(target=make, args=arguments, daemon=True) for _ in range(_AT_ONCE)
    ]
    for process in processes:
        process.start()
    for _ in range(_ROUNDS):
        told = [results.get() for _ in processes]
        refusals = [text for text in told if isinstance(text, str)]
        assert len(refusals) == _AT_ONCE - 1
        reason = "Resource temporarily unavailable"
        assert set(refusals) == {f"cannot create PID file: Cannot lock pid file: {reason}"}
    for process in processes:
        process.join()
    assert os.listdir(tmp_path) == []


def test_what_is_no_file_is_refused_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(QmpError, match=r"Could not create '.*': No such device or address"):
        PidFile(str(pipe))
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(QmpError, match="Failed to truncate pid file: Invalid argument"):
        PidFile(str(pipe))
    os.close(reader)
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)


def test_the_file_of_somebody_else_stays(tmp_path):
    path = tmp_path / "p"
    file = PidFile(str(path))
    path.rename(tmp_path / "old")
    path.write_text("1\n")
    file.remove()
    assert path.read_text() == "1\n"


def test_another_working_directory_does_not_matter_at_the_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = PidFile("p")
    assert Path("p").read_text() == f"{os.getpid()}\n"
    monkeypatch.chdir("/")
    file.remove()
    assert os.listdir(tmp_path) == []
