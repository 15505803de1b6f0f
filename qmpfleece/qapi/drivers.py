"""Where the block drivers are; what they are made from is in ``blockdev``."""

from typing import Final

from qmpfleece.base.registry import Folder

#: The drivers, each with its model: in the file of its name, or of a relative.
DRIVER_FILES: Final = Folder("qmpfleece.block.drivers", r'\bdriver_name = "([\w-]+)"')
