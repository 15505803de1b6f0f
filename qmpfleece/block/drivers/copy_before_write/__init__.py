"""copy-before-write: what the guest is about to overwrite is first copied elsewhere."""

from qmpfleece.block.drivers.copy_before_write.driver import CopyBeforeWrite
from qmpfleece.block.drivers.copy_before_write.options import CopyBeforeWriteOptions

__all__ = ["CopyBeforeWrite", "CopyBeforeWriteOptions"]
