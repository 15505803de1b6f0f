"""object-add, object-del and the properties of what they make."""

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block.throttling import KINDS, NAMES
from qmpfleece.control.object_options import OBJECT_MODELS
from qmpfleece.control.objects import OBJECT_TYPES
from tests.tools.desk import Desk


@pytest.fixture
async def desk():
    desk = Desk()
    yield desk
    await desk.close()


async def add(desk, kind, **members: object):
    return await desk.say("object-add", qom_type=kind, **{"id": "a"} | members)


def refused(act, *args: object):
    with pytest.raises(QmpError) as error:
        act(*args)
    return error.value.desc


async def test_every_type_has_a_model_and_the_model_all_writable_properties():
    for name, kind in OBJECT_TYPES.items():
        fields = OBJECT_MODELS[name].model_fields.values()
        wire = {field.alias for field in fields} - {"qom-type", "id"}
        assert wire == set(kind.properties)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({}, "Parameter 'qom-type' is missing"),
        ({"qom-type": "zzz", "id": "a"}, "Parameter 'qom-type' does not accept value 'zzz'"),
        ({"qom-type": "throttle-group"}, "Parameter 'id' is missing"),
        ({"qom-type": "throttle-group", "id": "1"}, "Parameter 'id' expects an identifier"),
        ({"qom-type": "throttle-group", "id": "b", "zzz": 1}, "Parameter 'zzz' is unexpected"),
        (
            {"qom-type": "throttle-group", "id": "b", "limits": {"bps-total": "x"}},
            "Invalid parameter type for 'limits.bps-total', expected: integer",
        ),
        (
            {"qom-type": "throttle-group", "id": "b", "x-bps-read": -1},
            "Property values cannot be negative",
        ),
        (
            {"qom-type": "throttle-group", "id": "b", "x-bps-read-max-length": 1 << 32},
            "x-bps-read-max-length value must be in therange [0, 4294967295]",
        ),
        (
            {"qom-type": "throttle-group", "id": "b", "x-bps-read": 1, "x-bps-total": 1},
            "bps/iops/max total values and read/write values cannot be used at the same time",
        ),
        (
            {"qom-type": "throttle-group", "id": "a", "x-bps-read": 1, "x-bps-total": 1},
            "attempt to add duplicate property 'a' to object (type 'container')",
        ),
        (
            {"qom-type": "throttle-group", "id": "a", "limits": {"bps-total": -1}},
            "bps/iops/max values must be within [0, 1000000000000000]",
        ),
        (
            {"qom-type": "iothread", "id": "b", "poll-grow": -1},
            "poll-grow value must be in range [0, 9223372036854775807]",
        ),
        (
            {"qom-type": "iothread", "id": "b", "thread-pool-min": 65},
            "bad thread-pool-min/thread-pool-max values",
        ),
    ],
)
async def test_what_is_wrong_is_refused_and_nothing_is_made(desk, members, text):
    await add(desk, "throttle-group")
    assert await desk.say("object-add", members) == text
    assert [name for name, _ in desk.system.objects.items()] == ["a"]
    assert list(desk.graph.throttle_groups) == ["a"]


async def test_limits_come_in_either_form(desk):
    await add(desk, "throttle-group", limits={"bps-total": 5, "iops-read": 7}, x_bps_total=10)
    made = desk.system.objects.get("a")
    assert made.get_property("x-bps-total") == 10
    assert made.get_property("limits") == dict.fromkeys(NAMES, 0) | {
        f"{kind}-max-length": 1 for kind in KINDS
    } | {"bps-total": 10, "iops-read": 7}
    assert desk.graph.throttle_groups["a"].limits.value("iops-read") == 7


async def test_limits_are_changed_live_and_single_values_are_not(desk):
    await add(desk, "throttle-group", limits={"bps-total": 5})
    made, group = desk.system.objects.get("a"), desk.graph.throttle_groups["a"]
    made.set_property("limits", {"bps-total": 0, "bps-read": 6})
    assert (group.limits.value("bps-read"), group.limits.value("bps-total")) == (6, 0)
    assert "at the same time" in refused(made.set_property, "limits", {"bps-total": 5})
    assert group.limits.value("bps-total") == 0
    told = refused(made.set_property, "limits", {"zzz": 5})
    assert told == "Parameter 'limits.zzz' is unexpected"
    told = refused(made.set_property, "x-bps-read", 5)
    assert told == "Property cannot be set after initialization"


async def test_properties_that_are_not_there_or_not_writable_are_named(desk):
    await add(desk, "secret", data="x")
    made = desk.system.objects.get("a")
    assert made.get_property("type") == "secret"
    assert made.get_property("loaded") is True
    told = "Property 'secret.zzz' not found"
    assert (refused(made.get_property, "zzz"), refused(made.set_property, "zzz", 1)) == (
        told,
        told,
    )
    for name in ("type", "loaded"):
        told = refused(made.set_property, name, "x")
        assert told == f"Property 'secret.{name}' is not writable"


async def test_an_object_is_removed_unless_a_node_needs_it(desk):
    assert await desk.say("object-del", id="a") == "object 'a' not found"
    await add(desk, "throttle-group")
    desk.disk("disk", bytes(512))
    definition = {"driver": "throttle", "file": "disk", "throttle-group": "a", "node-name": "t"}
    await desk.say("blockdev-add", definition)
    assert await desk.say("object-del", id="a") == "object 'a' is in use, can not be deleted"
    await desk.say("blockdev-del", node_name="t")
    assert await desk.say("object-del", id="a") == {}
    told = await desk.say("blockdev-add", definition)
    assert told == "Throttle group 'a' does not exist"
    assert await add(desk, "iothread") == {}


async def test_an_iothread_remembers_its_properties(desk):
    await add(desk, "iothread", poll_max_ns=5)
    made = desk.system.objects.get("a")
    assert (made.get_property("poll-max-ns"), made.get_property("thread-pool-max")) == (5, 64)
    told = refused(made.set_property, "thread-pool-max", 0)
    assert told == "bad thread-pool-min/thread-pool-max values"
    made.set_property("poll-max-ns", 6)
    assert made.get_property("poll-max-ns") == 6


# -- secrets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "content"),
    [
        ({"data": "p\u00e4ss"}, "p\u00e4ss".encode()),
        ({"data": "eA==", "format": "base64"}, b"x"),
        ({"data": "eA", "format": "base64"}, b"x"),
        ({"data": "e\nA=", "format": "base64"}, b"x"),
        ({"data": "e", "format": "base64"}, b""),
        ({"data": "x", "iv": "without a key it means nothing"}, b"x"),
    ],
)
async def test_a_secret_is_decoded(desk, members, content):
    assert await add(desk, "secret", **members) == {}
    assert desk.system.objects.get("a").content == content


async def test_a_secret_is_read_from_its_file(desk, tmp_path):
    (tmp_path / "key").write_bytes(b"\xffkey\n")
    assert await add(desk, "secret", file=str(tmp_path / "key")) == {}
    assert desk.system.objects.get("a").content == b"\xffkey\n"


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({}, "Either 'file' or 'data' must be provided"),
        ({"data": "x", "file": "y"}, "'file' and 'data' are mutually exclusive"),
        ({"data": "-_", "format": "base64"}, "Base64 data contains invalid characters"),
        ({"data": "x", "format": "zzz"}, "Parameter 'format' does not accept value 'zzz'"),
        ({"data": "x", "loaded": True}, "Property 'secret.loaded' is not writable"),
        ({"data": "x", "keyid": "zz"}, "No secret with id 'zz'"),
        ({"data": "x", "keyid": "short"}, "Key should be 32 bytes in length"),
        ({"data": "x", "keyid": "key"}, "IV is required to decrypt secret"),
        ({"data": "x", "keyid": "key", "iv": "x"}, "encrypted secrets are not supported"),
        (
            {"file": "/no/such"},
            "Unable to read /no/such: Failed to open file \u201c/no/such\u201d: No such file or"
            " directory",
        ),
        (
            {"file": "/"},
            "Unable to read /: Error reading file \u201c/\u201d: Is a directory",
        ),
    ],
)
async def test_a_secret_that_can_not_be_had_is_refused(desk, members, text):
    await add(desk, "secret", id="short", data="x")
    await add(desk, "secret", id="key", data="k" * 32)
    assert await add(desk, "secret", **members) == text
    assert desk.system.objects.get("a") is None
