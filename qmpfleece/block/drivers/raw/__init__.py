"""raw: an image without format, or a window of another node."""

from qmpfleece.block.drivers.raw.driver import Raw
from qmpfleece.block.drivers.raw.options import RawOptions

__all__ = ["Raw", "RawOptions"]
