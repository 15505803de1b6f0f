import pytest

from qmpfleece.block.child import Child
from qmpfleece.block.perm import Perm, Role
from tests.tools.memory import User, add_memory


@pytest.mark.parametrize("perm", [Perm(bits) for bits in range(16)])
async def test_flags_for_the_data_path_follow_the_permissions(graph, perm):
    edge = Child("root", Role.DATA, User(), add_memory(graph, "n").node)
    assert (edge.may_write, edge.may_resize) == (False, False)
    edge.perm = perm
    assert edge.may_write == bool(perm & (Perm.WRITE | Perm.WRITE_UNCHANGED))
    assert edge.may_resize == bool(perm & Perm.RESIZE)
    assert edge.perm == perm


async def test_edge_says_who_uses_what_as_what(graph):
    edge = Child("target", Role.DATA, User("the job"), add_memory(graph, "n").node)
    assert repr(edge) == "<Child target of the job -> n>"
