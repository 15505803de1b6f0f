"""A desk with a disk and a target."""

import pytest

from qmpfleece.bitmap.dirty import DirtyBitmap
from tests.tools.desk import Desk
from tests.tools.fleecing import CLUSTER, pattern

SIZE = 8 * CLUSTER
#: What is heard of a backup ``j``: when it starts, and when it succeeds.
STARTED = ["j created", "j running", "j paused", "j running", "return"]
ENDED = ["j waiting", "j pending", "j BLOCK_JOB_COMPLETED", "j concluded", "j null"]


@pytest.fixture
async def desk():
    desk = Desk()
    desk.disk("disk", pattern(SIZE))
    desk.disk("target", bytes(SIZE))
    yield desk
    await desk.close()


@pytest.fixture
def add_bitmap(desk):
    """Add a bitmap with these clusters set to the disk."""

    def add(*clusters: int, name="b"):
        bitmap = DirtyBitmap(SIZE, CLUSTER, name)
        desk.graph.find("disk").bitmaps.insert(0, bitmap)
        for cluster in clusters:
            bitmap.mark(cluster * CLUSTER, 1)
        return bitmap

    return add
