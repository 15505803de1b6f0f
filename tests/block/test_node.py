import asyncio

import pytest

from qmpfleece.block.node import NodeOptions
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import BlockdevCacheOptions, BlockdevOptions
from tests.tools.graphs import add
from tests.tools.memory import User, add_memory, hold
from tests.tools.until import settle

FLAGS = ("read_only", "auto_read_only", "cache_direct", "cache_no_flush", "force_share")


def given(**options: object):
    return BlockdevOptions(driver="memory", **options)


def test_options_are_off_by_default():
    options = NodeOptions(given())
    assert not any(getattr(options, flag) for flag in FLAGS)
    assert (options.unmap, options.detect_zeroes) == (False, "off")


def test_nested_nodes_inherit_what_they_do_not_say():
    everything = given(
        read_only=True,
        auto_read_only=True,
        force_share=True,
        cache=BlockdevCacheOptions(direct=True, no_flush=True),
        discard="ignore",
        detect_zeroes="on",
    )
    parent = NodeOptions(everything)
    child = NodeOptions(given(), parent)
    assert all(getattr(child, flag) for flag in FLAGS)
    # Formats say themselves what may be discarded, and zeroes are looked for once.
    assert (child.unmap, child.detect_zeroes) == (True, "off")
    own = given(
        read_only=False,
        auto_read_only=False,
        force_share=False,
        cache=BlockdevCacheOptions(direct=False, no_flush=False),
        discard="ignore",
    )
    child = NodeOptions(own, parent)
    assert not any(getattr(child, flag) for flag in FLAGS)
    assert not child.unmap


async def test_users_permissions_are_joined_and_what_they_share_is_cut(graph):
    node = add_memory(graph, "n").node
    assert node.users_perm() == (Perm.NONE, Perm.ALL)
    hold(graph, node, Perm.CONSISTENT_READ, Perm.ALL & ~Perm.RESIZE)
    hold(graph, node, Perm.WRITE, Perm.ALL & ~Perm.WRITE_UNCHANGED)
    assert node.users_perm() == (
        Perm.CONSISTENT_READ | Perm.WRITE,
        Perm.CONSISTENT_READ | Perm.WRITE,
    )


async def test_waiting_for_a_node_to_fall_idle(graph):
    node = add_memory(graph, "n").node
    await node.wait_idle()  # it is
    node.work_begin()
    node.work_begin()
    waiters = [asyncio.ensure_future(node.wait_idle()) for _ in range(3)]
    await settle()
    waiters[1].cancel()
    node.work_end()
    await settle()
    assert [waiter.done() for waiter in waiters] == [False, True, False]
    node.work_end()
    await asyncio.gather(waiters[0], waiters[2])


async def test_node_that_is_busy_again_before_the_waiter_runs_is_waited_for_again(graph):
    node = add_memory(graph, "n").node
    node.work_begin()
    waiter = asyncio.ensure_future(node.wait_idle())
    await settle()
    node.work_end()
    node.work_begin()
    await settle()
    assert not waiter.done()
    node.work_end()
    await waiter


async def test_quiescing_reaches_all_users_and_nests(graph):
    node = add_memory(graph, "n").node
    users = [User(), User()]
    for user in users:
        hold(graph, node, Perm.CONSISTENT_READ, user=user)
    node.drained_begin()
    node.drained_begin()
    assert [user.quiesced for user in users] == [2, 2]
    node.drained_end()
    assert [user.quiesced for user in users] == [1, 1]
    node.drained_end()
    assert [user.quiesced for user in users] == [0, 0]


@pytest.mark.parametrize("name", ["a", "#block012"])
async def test_messages_name_the_node(graph, name):
    assert add_memory(graph, name).node.describe() == f"node '{name}'"


async def test_each_node_of_a_chain_is_named_once_after_a_change_below(graph):
    nodes = [await add(graph, "null-co", "n0")]
    nodes += [await add(graph, "raw", f"n{i}", file=f"n{i - 1}") for i in range(1, 80)]
    named = []

    def noting(driver):
        whole = driver.exact_filename

        def exact_filename():
            named.append(driver)
            return whole()

        driver.exact_filename = exact_filename

    for node in nodes:
        noting(node.driver)
    assert nodes[-1].exact_filename == "null-co://"
    named.clear()
    nodes[0].described_anew()
    assert {node.exact_filename for node in reversed(nodes)} == {"null-co://"}
    assert len(named) == len(nodes)
