"""What may be a name."""

import pytest

from qmpfleece.base.names import well_formed


@pytest.mark.parametrize("name", ["a", "Z", "a0", "a.b-c_d"])
def test_letters_may_be_followed_by_digits_and_some_signs(name):
    assert well_formed(name)


@pytest.mark.parametrize("name", ["", "0", "-a", "_a", "#a", "a b", "a\n", "ä", "a٣"])
def test_nothing_else_is_a_name(name):
    assert not well_formed(name)
