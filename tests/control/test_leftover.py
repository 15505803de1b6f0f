"""Which unexpected member is told: in large tables, too. Small ones are compared with QEMU."""

import pytest

from qmpfleece.control.leftover import first_unexpected


@pytest.mark.parametrize(("count", "told"), [(24570, 11444), (30000, 22001), (70000, 32070)])
def test_of_thousands_of_members_the_one_that_qemu_tells(count, told):
    """Recorded: QEMU 7.2 takes seconds."""
    members = ["id", *(f"k{count}-{number}" for number in range(count))]
    assert first_unexpected(members, ["id"]) == f"k{count}-{told}"
