"""What holds for all tests."""

import asyncio
import contextlib
import gc
import logging
import shutil
import signal
from pathlib import Path
from typing import Final

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.tools.programs import run

# How long an example takes says nothing: the machine has other things to do.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# What is started from here shall take SIGINT, which shells let their background jobs ignore.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LOOPS: Final = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
#: The folders of what says something about the core itself, and so must hold on both event loops.
_ON_BOTH: Final = {"base", "block", "exports", "nbdclient", "qmp"}


def pytest_asyncio_loop_factories(config, item):
    folders = item.path.relative_to(Path(__file__).parent).parts
    on_both = folders[0] in _ON_BOTH and "qcow2" not in folders
    return _LOOPS if on_both else {"asyncio": _LOOPS["asyncio"]}


def pytest_collection_finish():
    """Let the collections of garbage between tests look only at what the tests have made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _garbage():
    """Collect what ``reports`` has put aside once it has become garbage."""
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class _Reports(logging.Handler):
    """Keeps what is said as text: records would keep objects alive."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record):
        self.texts.append(self.format(record))


@pytest.fixture(autouse=True)
def reports():
    """Fail for what asyncio reports: errors that nobody has retrieved, callbacks that raise.

    A test that provokes such a report takes it out of this list.
    """
    kept = _Reports()
    logger = logging.getLogger("asyncio")
    logger.addHandler(kept)
    try:
        yield kept.texts
        gc.collect()  # what is never retrieved is told when it goes
        gc.freeze()  # what stays is not looked at again: that would take 24 ms a test
    finally:
        logger.removeHandler(kept)
    assert not kept.texts, "\n".join(kept.texts)


@pytest.fixture
def loop_device():
    """What makes a block device of a file, with options of losetup, until the test has ended.

    The test is skipped where that is not to be had.
    """
    if shutil.which("losetup") is None:
        pytest.skip("needs losetup")
    with contextlib.ExitStack() as stack:

        def make(image: Path, *options: object) -> Path:
            done = run("losetup", "--find", "--show", *options, image)
            if done.returncode:
                pytest.skip(f"no loop devices here: {done.stderr.strip()}")
            device = Path(done.stdout.rstrip())
            stack.callback(_detach, device)
            return device

        yield make


def _detach(device):
    done = run("losetup", "--detach", device)
    assert done.returncode == 0, done.stderr
