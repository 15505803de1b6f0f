import pytest

from tests.soak.concurrency.run import failure
from tests.tools.programs import needs

_TOOLS = ("qemu-img", "qemu-io", "qemu-storage-daemon", "nbdinfo")


def failures(first: int, last: int) -> str:
    found = {seed: failure(seed) for seed in range(first, last)}
    return "\n".join(f"=== {seed}\n{text}" for seed, text in found.items() if text)


@needs(*_TOOLS)
@pytest.mark.parametrize("seed", range(2))
def test_what_happens_at_once_in_one_daemon_leaves_what_it_may(seed):
    found = failures(seed, seed + 1)
    assert not found, found


@needs(*_TOOLS)
@pytest.mark.soak
@pytest.mark.parametrize("first", range(100, 400, 10))
def test_what_happens_at_once_in_many_daemons_leaves_what_it_may(first):
    found = failures(first, first + 10)
    assert not found, found
