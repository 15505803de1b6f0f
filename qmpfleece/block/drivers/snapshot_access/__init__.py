"""snapshot-access: the disk as it was when the filter below was opened."""

from qmpfleece.block.drivers.snapshot_access.driver import SnapshotAccess
from qmpfleece.block.drivers.snapshot_access.options import SnapshotAccessOptions

__all__ = ["SnapshotAccess", "SnapshotAccessOptions"]
