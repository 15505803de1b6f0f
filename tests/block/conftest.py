"""A graph with its threads; afterwards nothing may be left of it."""

import asyncio
import os
import threading

import pytest_asyncio

from qmpfleece.base.workers import Workers
from qmpfleece.block.graph import Graph
from tests.tools.copy_bench import Bench
from tests.tools.fleecing import CLUSTER


@pytest_asyncio.fixture
async def graph():
    """A graph; every node must be closed, and every file, thread and task be gone."""
    files = open_files()
    workers = Workers()
    graph = Graph(workers)
    yield graph
    for node in graph.nodes():
        node.monitor_owned = False
        for edge in tuple(node.parents):
            if edge.parent not in graph.nodes():
                graph.detach(edge)
    await graph.close()
    workers.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "disk"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert open_files() == files


@pytest_asyncio.fixture
async def bench():
    """Makes copy engines; afterwards nothing may be left of them."""
    made = []

    def make(data, cluster_size=CLUSTER, bitmap=None):
        made.append(Bench(data, {"cluster_size": cluster_size, "bitmap": bitmap}))
        return made[-1]

    yield make
    for each in made:
        await each.close()


def open_files() -> set[str]:
    """Return what the process has open, sockets and pipes of the loop aside."""
    found = set()
    for entry in os.scandir("/proc/self/fd"):
        try:
            target = os.readlink(entry.path)
        except FileNotFoundError:
            continue  # the descriptor of the scan itself
        if target.startswith("/") and not target.startswith(("/proc/", "/dev/pts")):
            found.add(f"{entry.name} {target}")
    return found
