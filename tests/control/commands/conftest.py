"""A desk with a disk and a target."""

import pytest

from qmpfleece.bitmap.dirty import DirtyBitmap
from tests.tools.desk import Desk
from tests.tools.fleecing import CLUSTER, pattern


@pytest.fixture
async def desk():
    desk = Desk()
    desk.disk("disk", pattern(8 * CLUSTER))
    desk.disk("target", bytes(8 * CLUSTER))
    yield desk
    await desk.close()


@pytest.fixture
def add_bitmap(desk):
    """Add a bitmap with these clusters set to the disk."""

    def add(*clusters: int, name="b"):
        bitmap = DirtyBitmap(8 * CLUSTER, CLUSTER, name)
        desk.graph.find("disk").bitmaps.insert(0, bitmap)
        for cluster in clusters:
            bitmap.mark(cluster * CLUSTER, 1)
        return bitmap

    return add
