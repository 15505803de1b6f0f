"""The texts are those of the real qemu-storage-daemon 7.2."""

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.cli import qemuopts

KNOWN = {"backend": "str", "path": "str", "server": "bool", "wait": "bool"}


def parse(text):
    return qemuopts.parse(text, "backend", KNOWN)


def test_flags_are_on_and_with_no_before_them_off():
    assert parse("socket,id=c,path=/a,,b,server,nowait") == {
        "backend": "socket",
        "id": "c",
        "path": "/a,b",
        "server": "on",
        "wait": "off",
    }


def test_unknown_keys_are_refused():
    with pytest.raises(QmpError, match=r"^Invalid parameter 'bogus'$"):
        parse("socket,bogus=1")


def test_an_id_must_be_an_identifier():
    with pytest.raises(QmpError, match=r"^Parameter 'id' expects an identifier\nIdentifiers"):
        parse("socket,id=1c")


@pytest.mark.parametrize(("text", "value"), [("on", True), ("yes", True), ("off", False)])
def test_a_switch_is_on_or_off(text, value):
    assert qemuopts.switch({"server": text}, "server", default=not value) is value


def test_a_switch_that_is_absent_has_its_default():
    assert qemuopts.switch({}, "server", default=True) is True


def test_a_switch_takes_no_other_word():
    with pytest.raises(QmpError, match=r"^Parameter 'server' expects 'on' or 'off'$"):
        qemuopts.switch({"server": "maybe"}, "server", default=False)
