"""A fleecing scheme over a small disk."""

import pytest

from tests.tools.fleecing import CLUSTER, Fleece, pattern

SIZE = 8 * CLUSTER
DATA = pattern(SIZE)


@pytest.fixture
async def fleece():
    """A fleecing scheme over a disk of 8 clusters; the test starts it."""
    scheme = Fleece(DATA)
    yield scheme
    await scheme.close()
