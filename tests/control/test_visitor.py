"""What is wrong with arguments, in QEMU's words; each row was observed on QEMU 7.2."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from qmpfleece.base.errors import QmpError
from qmpfleece.control.shape import shape_of
from qmpfleece.control.visitor import visit
from qmpfleece.qapi.alternate import Alternate
from qmpfleece.qapi.model import Int64, Model, Size, Uint32


class Bitmap(Model):
    node: str
    name: str


class Inet(Model):
    host: str
    port: str


class InetAddress(Model):
    type: Literal["inet"]
    data: Inet


class UnixAddress(Model):
    type: Literal["unix"]
    path: str


BitmapOrStr = Annotated[str | Bitmap, Alternate("BlockDirtyBitmapOrStr")]
NodeOrNull = Annotated[str | None, Alternate("StrOrNull")]


class Everything(Model):
    name: str
    flag: bool | None = None
    size: Int64 | None = None
    latency_ns: Size | None = None
    max_connections: Uint32 | None = None
    sync: Literal["full", "top"] | None = None
    modes: list[Literal["a", "b"]] | None = None
    cache: Bitmap | None = None
    bitmaps: list[BitmapOrStr] | None = None
    addr: Annotated[InetAddress | UnixAddress, Field(discriminator="type")] | None = None
    ratio: float | None = None
    backing: NodeOrNull = "unset"


EVERYTHING = shape_of(Everything)


@pytest.mark.parametrize(
    ("value", "desc"),
    [
        (5, "Invalid parameter type for '', expected: object"),
        ({}, "Parameter 'name' is missing"),
        ({"zzz": 1}, "Parameter 'name' is missing"),
        ({"name": 5}, "Invalid parameter type for 'name', expected: string"),
        ({"name": "n", "zzz": 1}, "Parameter 'zzz' is unexpected"),
        (
            {"name": "n", "zzz": 1, "flag": 1},
            "Invalid parameter type for 'flag', expected: boolean",
        ),
        ({"name": "n", "flag": None}, "Invalid parameter type for 'flag', expected: boolean"),
        ({"name": "n", "size": "1k"}, "Invalid parameter type for 'size', expected: integer"),
        ({"name": "n", "size": 1.0}, "Invalid parameter type for 'size', expected: integer"),
        ({"name": "n", "size": True}, "Invalid parameter type for 'size', expected: integer"),
        ({"name": "n", "size": 1 << 63}, "Invalid parameter type for 'size', expected: integer"),
        ({"name": "n", "latency-ns": "x"}, "Parameter 'latency-ns' expects uint64"),
        ({"name": "n", "latency-ns": 1 << 64}, "Parameter 'latency-ns' expects uint64"),
        ({"name": "n", "max-connections": -1}, "Parameter 'max-connections' expects uint32_t"),
        (
            {"name": "n", "max-connections": 1 << 32},
            "Parameter 'max-connections' expects uint32_t",
        ),
        ({"name": "n", "max-connections": "x"}, "Parameter 'max-connections' expects uint64"),
        ({"name": "n", "sync": "xx"}, "Parameter 'sync' does not accept value 'xx'"),
        ({"name": "n", "sync": 5}, "Invalid parameter type for 'sync', expected: string"),
        ({"name": "n", "modes": ["a", "zzz"]}, "Parameter 'null' does not accept value 'zzz'"),
        ({"name": "n", "modes": "a"}, "Invalid parameter type for 'modes', expected: array"),
        ({"name": "n", "modes": [1]}, "Invalid parameter type for 'modes[0]', expected: string"),
        ({"name": "n", "cache": 5}, "Invalid parameter type for 'cache', expected: object"),
        ({"name": "n", "cache": {"node": "x"}}, "Parameter 'cache.name' is missing"),
        (
            {"name": "n", "cache": {"node": "x", "name": "b", "q": 1}},
            "Parameter 'cache.q' is unexpected",
        ),
        (
            {"name": "n", "bitmaps": [5]},
            "Invalid parameter type for 'null', expected: BlockDirtyBitmapOrStr",
        ),
        ({"name": "n", "bitmaps": ["a", {"node": "x"}]}, "Parameter 'bitmaps[1].name' is missing"),
        (
            {"name": "n", "bitmaps": ["a", {"node": 1, "name": "b"}]},
            "Invalid parameter type for 'bitmaps[1].node', expected: string",
        ),
        ({"name": "n", "addr": {}}, "Parameter 'addr.type' is missing"),
        ({"name": "n", "addr": {"type": "x"}}, "Parameter 'type' does not accept value 'x'"),
        (
            {"name": "n", "addr": {"type": 5}},
            "Invalid parameter type for 'addr.type', expected: string",
        ),
        (
            {"name": "n", "addr": {"type": "inet", "data": {"host": "x"}}},
            "Parameter 'addr.data.port' is missing",
        ),
        (
            {"name": "n", "addr": {"type": "inet", "data": 5}},
            "Invalid parameter type for 'addr.data', expected: object",
        ),
        ({"name": "n", "ratio": "x"}, "Invalid parameter type for 'ratio', expected: number"),
        ({"name": "n", "backing": 5}, "Invalid parameter type for 'backing', expected: StrOrNull"),
    ],
)
def test_wrong_arguments_get_the_text_of_qemu(value, desc):
    with pytest.raises(QmpError) as caught:
        visit(EVERYTHING, value)
    assert caught.value.desc == desc


def test_right_arguments_become_models():
    value = visit(
        EVERYTHING,
        {
            "name": "n",
            "flag": True,
            "size": -1,
            "latency-ns": -1,
            "max-connections": 7,
            "modes": ["b"],
            "bitmaps": ["a", {"node": "x", "name": "b"}],
            "addr": {"type": "unix", "path": "/x"},
            "ratio": 1,
            "backing": None,
        },
    )
    assert isinstance(value, Everything)
    assert value.addr == UnixAddress(type="unix", path="/x")
    assert value.bitmaps == ["a", Bitmap(node="x", name="b")]
    assert value.latency_ns == (1 << 64) - 1  # as QEMU reads -1
    assert value.ratio == 1.0
    assert value.backing is None
