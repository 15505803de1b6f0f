"""What is said of the driver. Apart from it: compiled modules keep no annotations for pydantic."""

from typing import Literal

from qmpfleece.qapi.blockdev import BlockdevOptions, BlockdevRef
from qmpfleece.qapi.model import Int64


class RawOptions(BlockdevOptions):
    """QAPI ``BlockdevOptionsRaw``.

    Attributes:
        file: Where the data lies.
        offset: Where the disk begins in ``file``, in bytes.
        size: How many bytes of ``file`` it has; to its end by default.
    """

    driver: Literal["raw"]
    file: BlockdevRef
    offset: Int64 | None = None
    size: Int64 | None = None
