import asyncio

import pytest


async def test_what_follows_runs_at_once_when_no_command_runs(system):
    done = []
    system.after_reply(lambda: done.append(1))
    assert done == [1]


async def test_coroutine_that_nobody_would_await_is_refused(system):
    async def follow():
        raise AssertionError

    pending = []

    def start():
        pending.append(follow())
        return pending[0]

    with pytest.raises(RuntimeError):
        system.after_reply(start)
    pending[0].close()


async def test_quit_outside_a_command_ends_the_program(system):
    seen = []
    system.has_machine = True
    system.bus.subscribe(lambda event, _us: seen.append(event.to_wire()))
    waiter = asyncio.create_task(system.shutdown.wait())
    system.quit()
    await waiter
    assert seen == [{"guest": False, "reason": "host-qmp-quit"}]
