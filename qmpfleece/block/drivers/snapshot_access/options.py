"""What is said of the driver. Apart from it: compiled modules keep no annotations for pydantic."""

from typing import Literal

from qmpfleece.qapi.blockdev import BlockdevOptions, BlockdevRef


class SnapshotAccessOptions(BlockdevOptions):
    """What snapshot-access takes.

    Attributes:
        file: The node with the snapshot, a copy-before-write filter.
    """

    driver: Literal["snapshot-access"]
    file: BlockdevRef
