"""A desk with a disk and a target."""

import pytest

from tests.tools.desk import Desk
from tests.tools.fleecing import CLUSTER, pattern


@pytest.fixture
async def desk():
    desk = Desk()
    desk.disk("disk", pattern(8 * CLUSTER))
    desk.disk("target", bytes(8 * CLUSTER))
    yield desk
    await desk.close()
