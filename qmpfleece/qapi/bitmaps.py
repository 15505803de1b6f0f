"""How dirty bitmaps are named on the wire."""

from typing import Annotated

from pydantic import ConfigDict

from qmpfleece.qapi.alternate import Alternate
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


#: QAPI ``BlockDirtyBitmapOrStr``.
BlockDirtyBitmapOrStr = Annotated[str | BlockDirtyBitmap, Alternate("BlockDirtyBitmapOrStr")]
