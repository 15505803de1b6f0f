import pytest

from tests.oracle.random_nbd import difference
from tests.tools.programs import needs


@needs("qemu-storage-daemon", "qemu-img", "qemu-io")
@pytest.mark.soak
@pytest.mark.parametrize("first", range(0, 50, 10))
def test_random_clients_are_answered_as_qemu_does(first):
    differing = {seed: found for seed in range(first, first + 10) if (found := difference(seed))}
    assert not differing, "\n".join(line for found in differing.values() for line in found)
