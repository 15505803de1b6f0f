"""Texts and classes are those of qemu-storage-daemon 7.2."""

import asyncio
import errno
import logging

import pytest

from qmpfleece.base.errors import BlockError, ErrorClass, QmpError
from qmpfleece.control import dispatch
from qmpfleece.control.dispatch import Client, Dispatcher
from qmpfleece.qapi.events import Event


class Happened(Event, name="TEST_HAPPENED"):
    pass


@pytest.mark.parametrize(
    ("request_", "desc"),
    [
        ([], "QMP input must be a JSON object"),
        ("x", "QMP input must be a JSON object"),
        (None, "QMP input must be a JSON object"),
        ({}, "QMP input lacks member 'execute'"),
        ({"id": 3}, "QMP input lacks member 'execute'"),
        ({"execute": 5}, "QMP input member 'execute' must be a string"),
        ({"execute": None}, "QMP input member 'execute' must be a string"),
        ({"execute": "quit", "foo": 1}, "QMP input member 'foo' is unexpected"),
        (
            {"execute": "quit", "aaa": 1, "bbb": 1, "ccc": 1, "ddd": 1},
            "QMP input member 'ccc' is unexpected",
        ),
        ({"exec-oob": "quit"}, "QMP input member 'exec-oob' is unexpected"),
        ({"execute": "quit", "exec-oob": 1}, "QMP input member 'exec-oob' is unexpected"),
        ({"arguments": 1, "foo": 1}, "QMP input member 'arguments' must be an object"),
        ({"execute": "nope", "arguments": 5}, "QMP input member 'arguments' must be an object"),
        ({"execute": "query-version", "arguments": {"a": 1}}, "Parameter 'a' is unexpected"),
        ({"execute": "query-version", "control": {}}, "QMP input member 'control' is unexpected"),
    ],
)
async def test_malformed_request_gets_the_text_of_qemu(talk, request_, desc):
    reply = await talk.ask(request_)
    assert reply["error"] == {"class": "GenericError", "desc": desc}


async def test_unknown_command_is_not_found(talk):
    reply = await talk.ask({"execute": "nope", "id": "x"})
    assert reply == {
        "error": {"class": "CommandNotFound", "desc": "The command nope has not been found"},
        "id": "x",
    }


@pytest.mark.parametrize("ident", [None, 7, "x", {"a": [1, "x"]}, False])
async def test_id_is_echoed_whatever_it_is(talk, ident):
    assert (await talk.ask({"execute": "query-name", "id": ident})) == {"return": {}, "id": ident}


async def test_id_is_echoed_with_an_error(talk):
    assert (await talk.ask({"foo": 1, "id": 5}))["id"] == 5


async def test_no_command_runs_before_negotiation(system):
    talk_refuses = {
        "class": "CommandNotFound",
        "desc": "Expecting capabilities negotiation with 'qmp_capabilities'",
    }
    seen = []
    dispatcher = Dispatcher(system)
    client = Client()
    for name in ("query-version", "nope"):
        await dispatcher.serve({"execute": name}, client, seen.append)
        assert seen[-1]["error"] == talk_refuses
    await dispatcher.serve(
        {"execute": "qmp_capabilities", "arguments": {"foo": 1}}, client, seen.append
    )
    assert not client.negotiated
    await dispatcher.serve({"execute": "qmp_capabilities"}, client, seen.append)
    assert seen[-1] == {"return": {}}
    await dispatcher.serve({"execute": "qmp_capabilities"}, client, seen.append)
    assert seen[-1]["error"] == {
        "class": "CommandNotFound",
        "desc": "Capabilities negotiation is already complete, command ignored",
    }


async def test_oob_is_understood_once_enabled_and_supported_by_no_command(system):
    seen = []
    dispatcher = Dispatcher(system)
    client = Client()
    enable = {"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}
    for request in (
        enable,
        {"exec-oob": "query-version"},
        {"exec-oob": "nope"},
        {"exec-oob": 5},
        {"execute": "query-version", "exec-oob": "query-version"},
    ):
        await dispatcher.serve(request, client, seen.append)
    assert [reply["error"]["desc"] for reply in seen[1:]] == [
        "The command query-version does not support OOB",
        "The command nope has not been found",
        "QMP input member 'exec-oob' must be a string",
        "QMP input member 'execute' clashes with 'exec-oob'",
    ]


async def test_refusal_keeps_its_class(make_talk):
    async def handler(_system):
        raise QmpError("Block job 'a' not found", ErrorClass.DEVICE_NOT_ACTIVE)

    reply = await make_talk(c={"handler": handler, "exclusive": True}).ask({"execute": "c"})
    assert reply["error"] == {"class": "DeviceNotActive", "desc": "Block job 'a' not found"}


async def test_io_error_becomes_a_generic_error(make_talk):
    async def handler(_system):
        raise BlockError(errno.ENOSPC)

    talk = make_talk(c={"handler": handler, "exclusive": True})
    assert await talk.refused({"execute": "c"}) == "No space left on device"


async def test_command_that_cannot_be_imported_is_answered_and_the_next_one_is_served(
    system, caplog
):
    class OutOfDescriptors(dict):
        def get(self, name, default=None):
            if name == "query-jobs":
                raise OSError(errno.EMFILE, "Too many open files")
            return super().get(name, default)

    dispatcher = Dispatcher(system, OutOfDescriptors(Dispatcher(system).commands))
    with caplog.at_level(logging.CRITICAL, logger="qmpfleece.control.dispatch"):
        reply = await dispatcher.call("query-jobs")
    assert reply == {"error": {"class": "GenericError", "desc": "Too many open files"}}
    assert await dispatcher.call("query-name") == {"return": {}}


async def test_bug_is_logged_and_answered_and_the_next_command_is_served(make_talk, caplog):
    async def handler(_system, *, fail: bool):
        return {"fine": 1 / (not fail)}

    talk = make_talk(c={"handler": handler, "exclusive": True})
    with caplog.at_level(logging.ERROR, dispatch.__name__):
        text = await talk.refused({"execute": "c", "arguments": {"fail": True}})
    assert text == "Internal error in c"
    assert "ZeroDivisionError" in caplog.text
    reply = await talk.ask({"execute": "c", "arguments": {"fail": False}})
    assert reply == {"return": {"fine": 1.0}}


async def test_cancellation_from_inside_is_an_answer_not_the_end(make_talk):
    async def handler(_system):
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    talk = make_talk(c={"handler": handler, "exclusive": True})
    assert await talk.refused({"execute": "c"}) == "Operation canceled"


async def test_events_of_the_command_then_the_reply_then_what_follows(make_talk):
    async def follow(system):
        await asyncio.sleep(0)
        system.bus.emit(Happened())

    async def handler(system):
        system.after_reply(lambda: follow(system))
        system.bus.emit(Happened())

    talk = make_talk(c={"handler": handler, "exclusive": True})
    await talk.ask({"execute": "c"})
    assert talk.seen == ["TEST_HAPPENED", {"return": {}}, "TEST_HAPPENED"]


async def test_what_follows_runs_at_once_when_the_reply_is_out(make_talk, system):
    tasks = []

    async def later(gate):
        await gate.wait()
        system.after_reply(lambda: system.bus.emit(Happened()))

    async def handler(_system):
        tasks.append(asyncio.create_task(later(gate)))

    gate = asyncio.Event()
    talk = make_talk(c={"handler": handler, "exclusive": True})
    await talk.ask({"execute": "c"})
    gate.set()
    await tasks[0]
    assert talk.seen == [{"return": {}}, "TEST_HAPPENED"]


async def test_failure_of_what_follows_harms_nobody(make_talk, caplog):
    async def handler(system):
        system.after_reply(lambda: 1 / 0)
        system.after_reply(lambda: system.bus.emit(Happened()))

    talk = make_talk(c={"handler": handler, "exclusive": True})
    await talk.ask({"execute": "c"})
    assert talk.seen == [{"return": {}}, "TEST_HAPPENED"]
    assert "ZeroDivisionError" in caplog.text


async def test_exclusive_commands_of_all_clients_run_one_at_a_time_in_order(make_talk):
    gates = {name: asyncio.Event() for name in "abc"}
    started = []

    async def handler(_system, name: str):
        started.append(name)
        await gates[name].wait()

    async def look(_system):
        return list(started)

    talk = make_talk(
        c={"handler": handler, "exclusive": True}, q={"handler": look, "exclusive": False}
    )
    tasks = []
    for name in "abc":
        request = {"execute": "c", "arguments": {"name": name}}
        tasks.append(asyncio.create_task(talk.ask(request)))
        await asyncio.sleep(0)
    assert await talk.ask({"execute": "q"}) == {"return": ["a"]}
    for done in ("a", "ab", "abc"):
        assert "".join(started) == done
        gates[done[-1]].set()
        await tasks[len(done) - 1]
        await asyncio.sleep(0)


async def test_query_is_answered_while_a_command_hangs(make_talk):
    gate = asyncio.Event()

    async def hang(_system):
        await gate.wait()

    async def look(_system):
        return 5

    talk = make_talk(
        c={"handler": hang, "exclusive": True}, q={"handler": look, "exclusive": False}
    )
    hung = asyncio.create_task(talk.ask({"execute": "c"}))
    await asyncio.sleep(0)
    assert await talk.ask({"execute": "q"}) == {"return": 5}
    gate.set()
    await hung


async def test_cancelled_command_gives_its_turn_back(make_talk):
    async def hang(_system, *, wait: bool):
        if wait:
            await asyncio.get_running_loop().create_future()

    talk = make_talk(c={"handler": hang, "exclusive": True})
    task = asyncio.create_task(talk.ask({"execute": "c", "arguments": {"wait": True}}))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await talk.ask({"execute": "c", "arguments": {"wait": False}}) == {"return": {}}


async def test_call_is_for_callers_without_a_session(system):
    assert await Dispatcher(system).call("query-name") == {"return": {}}


async def test_command_that_waits_for_its_turn_does_not_run_any_more_after_quit(
    make_talk,
):
    may_go_on, done = asyncio.Event(), []

    async def slow(system):
        await may_go_on.wait()
        system.quit()

    async def other(system):
        done.append(system)

    talk = make_talk(
        a={"handler": slow, "exclusive": True}, b={"handler": other, "exclusive": True}
    )
    tasks = []
    for name in "ab":
        served = talk.dispatcher.serve({"execute": name}, talk.client, talk.seen.append)
        tasks.append(asyncio.create_task(served))
        await asyncio.sleep(0)
    may_go_on.set()
    await asyncio.gather(*tasks)
    assert talk.seen == [{"return": {}}]
    assert not done
