"""How dirty bitmaps are named on the wire."""

from pydantic import ConfigDict

from qmpfleece.qapi.model import Model


class BlockDirtyBitmap(Model):
    """QAPI ``BlockDirtyBitmap``: a bitmap of a node.

    Attributes:
        node: The node name.
        name: The bitmap's name.
    """

    model_config = ConfigDict(frozen=True)

    node: str
    name: str
