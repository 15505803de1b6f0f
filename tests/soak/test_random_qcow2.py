import pytest

from tests.oracle.random_qcow2 import difference
from tests.oracle.random_runs import differences
from tests.tools.programs import needs


@needs("qemu-storage-daemon", "qemu-img", "qemu-io", "nbdinfo")
@pytest.mark.soak
@pytest.mark.parametrize("first", range(0, 100, 10))
def test_random_qcow2_images_are_used_as_by_qemu(first):
    found = differences(difference, range(first, first + 10))
    assert not found, found
