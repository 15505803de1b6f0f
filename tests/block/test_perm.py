import itertools

import pytest

from qmpfleece.block.perm import Perm, Role, default_perms, perm_names

R, W, U, Z = Perm.CONSISTENT_READ, Perm.WRITE, Perm.WRITE_UNCHANGED, Perm.RESIZE
ALL_SETS = [Perm(bits) for bits in range(16)]


def test_names_are_qemus_in_qemus_order():
    assert perm_names(Perm.ALL) == "consistent read, write, write unchanged, resize"
    assert perm_names(Z | R) == "consistent read, resize"
    assert perm_names(Perm.NONE) == ""


@pytest.mark.parametrize("writable", [True, False])
def test_each_role_turns_the_users_permissions_into_the_childs(writable):
    for perm, shared in itertools.product(ALL_SETS, ALL_SETS):
        check(perm, shared, writable)


def check(perm, shared, writable):
    def needed(role):
        return default_perms(role, perm, shared, writable=writable)

    # A filter needs and shares what its users do.
    assert needed(Role.FILTERED | Role.PRIMARY) == (perm, shared)
    # A backing file is only read; it may change if the users can live with that.
    assert needed(Role.COW) == (perm & R, R | U | (W | Z if shared & W else Perm.NONE))
    # Data may be resized by who writes it, and by nobody else.
    assert needed(Role.DATA) == (perm | (Z if perm & W else Perm.NONE), shared & ~Z)
    # Metadata is read and written even when no user does, and by nobody else.
    expected = perm | R | (W | Z if writable else Perm.NONE)
    for role in (Role.METADATA, Role.IMAGE):
        assert needed(role) == (expected, shared & ~(W | Z))
