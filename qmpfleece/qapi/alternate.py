"""How an annotation says that it is a QAPI alternate: one of several JSON types.

::

    BlockDirtyBitmapOrStr = Annotated[str | BlockDirtyBitmap, Alternate("BlockDirtyBitmapOrStr")]

The name is part of QEMU's error text, so it has to be said. A union without this mark is an
optional member (``X | None``) or a flat union (``Field(discriminator="type")``).
"""

from typing import NamedTuple


class Alternate(NamedTuple):
    """Marks a union as a QAPI alternate. ``None`` among its arms means that null is accepted.

    Attributes:
        qapi_name: The name of the alternate in QAPI.
    """

    qapi_name: str
