"""Several jobs that pause as nodes are drained: which one first, and which one goes on first."""

from tests.oracle.scenario import Scenario, scenario
from tests.oracle.session import Session

SIZE = 1 << 20


def _drained(name: str, sources: str, targets: str) -> Scenario:
    """Make a scenario of three backups that wait for guests, and of what drains their nodes.

    Args:
        name: Its name.
        sources: The nodes that are backed up; all begin to exist in alphabetical order.
        targets: Where to.
    """

    def run(d: Session) -> None:
        for node in "abcdefg":
            d.qmp("blockdev-add", driver="file", node_name=node, filename=d.file(node, SIZE))
        jobs = zip(sources, targets, ("y", "x", "z"), strict=True)
        for source, target, job in jobs:
            d.qmp("blockdev-backup", device=source, target=target, job_id=job, sync="none")
        graph = d.qmp("x-debug-query-block-graph") or {}
        d.transcript.entries.pop()  # permissions on targets are another matter
        for node in graph["nodes"]:
            d.transcript.add(f"# {node['id']}: {node['type']} {node['name']}")
        d.qmp("transaction", actions=[])
        if sources == "abc":
            bitmaps = [{"node": source, "name": "bitmap"} for source in reversed(sources)]
            actions = [{"type": "block-dirty-bitmap-add", "data": data} for data in bitmaps]
            d.qmp("transaction", actions=actions)
        options = [
            {"driver": "file", "node-name": source, "filename": d.path(source)}
            for source in dict.fromkeys(sources)
        ]
        d.qmp("blockdev-reopen", options=options)

    run.__name__ = name
    return scenario(run)


_drained("jobs_of_three_disks_pause_in_turn", "abc", "def")
_drained("jobs_to_targets_the_other_way_round_pause_in_turn", "abc", "fed")
_drained("jobs_of_disks_the_other_way_round_pause_in_turn", "cba", "fde")
_drained("jobs_of_one_disk_pause_in_turn", "aaa", "fde")
