"""The texts are those of the real qemu-storage-daemon 7.2."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from qmpfleece.base.errors import QmpError
from qmpfleece.cli.typed import typed
from qmpfleece.control.shape import shape_of
from qmpfleece.qapi.alternate import Alternate
from qmpfleece.qapi.model import Int64, Model, Uint32


class Cache(Model):
    direct: bool | None = None


class UnixAddr(Model):
    type: Literal["unix"]
    path: str


class InetAddr(Model):
    type: Literal["inet"]
    host: str
    port: str


class Thing(Model):
    addr: Annotated[UnixAddr | InetAddr, Field(discriminator="type")]
    size: Int64 | None = None
    count: Uint32 | None = None
    mode: Literal["a", "b"] | None = None
    cache: Cache | None = None
    ref: Annotated[str | Cache, Alternate("ThingRef")] | None = None
    bitmaps: list[str] | None = None
    node_name: str | None = None


UNIX = {"type": "unix", "path": "p"}


def convert(**members: object):
    return typed(shape_of(Thing), {"addr": UNIX, **members})


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12), ("-1", -1), ("0x100000", 1 << 20), (" 12", 12), ("010", 8), ("0", 0)],
)
def test_numbers_are_read_as_c_reads_them(text, value):
    assert convert(size=text)["size"] == value


@pytest.mark.parametrize("text", ["on", "yes", "true", "y"])
def test_there_are_four_words_for_on(text):
    assert convert(cache={"direct": text})["cache"] == {"direct": True}


@pytest.mark.parametrize("text", ["off", "no", "false", "n"])
def test_there_are_four_words_for_off(text):
    assert convert(cache={"direct": text})["cache"] == {"direct": False}


def test_lists_alternates_and_strings_keep_their_form():
    tree = {"ref": "x", "bitmaps": ["1", "2"], "node-name": "5", "mode": "b"}
    assert convert(**tree) == {"addr": UNIX, **tree}
    assert convert(ref={"direct": "on"})["ref"] == {"direct": True}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"size": "abc"}, "Parameter 'size' expects integer"),
        ({"size": "1M"}, "Parameter 'size' expects integer"),
        ({"size": "1.5"}, "Parameter 'size' expects integer"),
        ({"size": ""}, "Parameter 'size' expects integer"),
        ({"size": "1 "}, "Parameter 'size' expects integer"),
        ({"size": "0b1"}, "Parameter 'size' expects integer"),
        ({"size": "1_0"}, "Parameter 'size' expects integer"),
        ({"size": "9" * 20}, "Parameter 'size' expects integer"),
        ({"mode": "c"}, "Parameter 'mode' does not accept value 'c'"),
        ({"mode": "c", "cache": "x"}, "Parameter 'mode' does not accept value 'c'"),
        ({"count": "-1", "mode": "c"}, "Parameter 'count' expects uint32_t"),
        ({"cache": {"direct": "maybe"}}, "Parameter 'cache.direct' expects 'on' or 'off'"),
        ({"cache": {"direct": "ON"}}, "Parameter 'cache.direct' expects 'on' or 'off'"),
        ({"cache": {"direct": "1"}}, "Parameter 'cache.direct' expects 'on' or 'off'"),
        ({"cache": "x"}, "Invalid parameter type for 'cache', expected: object"),
        ({"cache": {"foo": "x"}}, "Parameter 'cache.foo' is unexpected"),
        ({"bogus": "1"}, "Parameter 'bogus' is unexpected"),
        ({"bogus": {"x": "1"}}, "Parameter 'bogus' is unexpected"),
        ({"node-name": {"x": "y"}}, "Parameters 'node-name.*' are unexpected"),
        ({"size": {"x": "y"}}, "Parameters 'size.*' are unexpected"),
        ({"bitmaps": "x"}, "Invalid parameter type for 'bitmaps', expected: array"),
        ({"bitmaps": {"x": "x"}}, "Invalid parameter type for 'bitmaps', expected: array"),
        ({"ref": ["x"]}, "Invalid parameter type for 'ref', expected: ThingRef"),
        ({"addr": "unix"}, "Invalid parameter type for 'addr', expected: object"),
        ({"addr": {"path": "x"}}, "Parameter 'addr.type' is missing"),
        ({"addr": {"type": "unix"}}, "Parameter 'addr.path' is missing"),
        ({"addr": {"type": "foo"}}, "Parameter 'type' does not accept value 'foo'"),
        ({"addr": {"type": {"x": "y"}}}, "Parameters 'addr.type.*' are unexpected"),
    ],
)
def test_what_does_not_fit_gets_qemus_words(members, message):
    with pytest.raises(QmpError) as caught:
        convert(**members)
    assert caught.value.desc == message


def test_a_missing_member_is_named():
    with pytest.raises(QmpError) as caught:
        typed(shape_of(Thing), {"size": "x"})
    assert caught.value.desc == "Parameter 'addr' is missing"
