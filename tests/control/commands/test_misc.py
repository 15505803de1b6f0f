from qmpfleece.control.version import greeting


async def test_stop_and_cont_tell_what_changed_and_only_that(talk):
    for name in ("cont", "stop", "stop", "query-status", "cont", "query-status"):
        await talk.ask({"execute": name})
    paused = {"running": False, "singlestep": False, "status": "paused"}
    running = {"running": True, "singlestep": False, "status": "running"}
    done = {"return": {}}
    assert talk.seen == [
        done,
        "STOP",
        done,
        done,
        {"return": paused},
        "RESUME",
        done,
        {"return": running},
    ]


async def test_quit_is_answered_before_the_end_is_asked_for(talk, system):
    await talk.ask({"execute": "quit"})
    assert talk.seen == [{"return": {}}]
    assert system.shutdown.is_set()


async def test_quit_is_announced_after_its_reply_where_qemu_does_so(talk, system):
    system.has_machine = True
    await talk.ask({"execute": "quit"})
    assert talk.seen == [{"return": {}}, "SHUTDOWN"]


async def test_query_commands_lists_itself(talk):
    reply = await talk.ask({"execute": "query-commands"})
    assert {"name": "query-commands"} in reply["return"]


async def test_query_name_tells_the_name_if_there_is_one(talk, system):
    assert await talk.ask({"execute": "query-name"}) == {"return": {}}
    system.name = "vm"
    assert await talk.ask({"execute": "query-name"}) == {"return": {"name": "vm"}}


async def test_version_is_the_one_that_greets(talk):
    reply = await talk.ask({"execute": "query-version"})
    assert reply["return"] == greeting()["QMP"]["version"]
    assert reply["return"]["qemu"] == {"major": 7, "minor": 2, "micro": 0}
