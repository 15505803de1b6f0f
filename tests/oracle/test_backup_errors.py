import pytest

from tests.oracle.compare import cases_of

pytest.importorskip("qmpfleece.block.drivers.blkdebug")

test_same_as_qemu = cases_of("backup_errors")
