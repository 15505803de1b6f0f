"""The event of an image that turns out to be corrupt."""

from qmpfleece.qapi.events import Event


class BlockImageCorrupted(Event, name="BLOCK_IMAGE_CORRUPTED"):
    """Corruption was found; if ``fatal``, the image has been marked and is not used any more.

    Attributes:
        device: The device's name, empty where there is none.
        node_name: The node.
        msg: What was found.
        offset: Bytes, where a write was prevented.
        size: Bytes of that write.
        fatal: Whether the image is unusable now.
    """

    device: str
    node_name: str | None = None
    msg: str
    offset: int | None = None
    size: int | None = None
    fatal: bool
