"""The order of members, seen in replies of qemu-storage-daemon and qemu-system 7.2."""

import pytest

from qmpfleece.qapi.order import ordered


@pytest.mark.parametrize(
    ("schema_order", "printed"),
    [
        (["running", "singlestep", "status"], ["status", "singlestep", "running"]),
        (["return", "id"], ["return", "id"]),
        (["error", "id"], ["id", "error"]),
        (["class", "desc"], ["class", "desc"]),
        (["event", "data", "timestamp"], ["timestamp", "event", "data"]),
        (["major", "minor", "micro"], ["micro", "minor", "major"]),
        (
            ["name", "meta-type", "arg-type", "ret-type"],
            ["name", "ret-type", "meta-type", "arg-type"],
        ),
    ],
)
def test_members_come_in_the_order_that_qemu_prints(schema_order, printed):
    assert list(ordered(schema_order)) == printed
