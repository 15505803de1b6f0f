import pytest

from tests.oracle.random_nbd import difference
from tests.oracle.random_runs import differences
from tests.tools.programs import needs


@needs("qemu-storage-daemon", "qemu-img", "qemu-io")
@pytest.mark.soak
@pytest.mark.parametrize("first", range(0, 50, 10))
def test_random_clients_are_answered_as_qemu_does(first):
    found = differences(difference, range(first, first + 10))
    assert not found, found
