"""Random commands: what nobody thought of writing a scenario for.

    python -m tests.oracle.random_commands FIRST LAST [STEPS]

runs these seeds on both daemons, and prints for each that differs where it first does.

Names are few, so that commands meet each other. Not drawn is what would only show a listed
deviation (targets of a filter that others use), depend on time (limits that are reached), or
kill QEMU 7.2: to enable a bitmap that is not there in a transaction, to merge none.
"""

import json
import re
import sys
from collections.abc import Callable
from typing import Final

from tests.oracle import random_runs
from tests.oracle.random_draws import EXPORTS, GROUPS, JOBS, KIB, SIZE, Draws, Json
from tests.oracle.session import Session

_STEPS: Final = 40
#: How many commands have a mistake in their arguments.
_SPOILT: Final = 0.04
_SETTLED: Final = frozenset({"concluded", "pending", "paused"})
#: What files occupy, and where those of qcow2 images end and are written.
_OCCUPIED: Final = re.compile(
    r', "actual-size": \d+|"virtual-size": \d+, (?="filename": "TMP/q\d.qcow2", "format": "file")'
    r'|"wr_highest_offset": \d+, '
)
#: Whether a filter's target may be written to, a listed deviation.
_SHARED: Final = re.compile(
    r'("name": "target", "parent": \d+, "shared-perm": \[[^]]*?)"write", (?="consistent-read"\])'
)
#: Members of one hash bucket: their order tells how often QEMU has copied an object.
_TURNED: Final = re.compile(
    r'(\\*"inject-error\.0\.event\\*": \\*"\w+\\*"), (\\*"inject-error\.0\.errno\\*": \d+)'
)
_PAUSE: Final = '"event": "JOB_STATUS_CHANGE", "data": {"status": "paused", '
_QUERIES: Final = (
    *("query-named-block-nodes", "query-block-exports", "query-jobs", "query-block-jobs"),
    *("query-blockstats", "query-block", "x-debug-query-block-graph"),
)


class Commands:
    """Sends commands that are drawn.

    Args:
        seed: Decides everything.
        session: To send them to.
    """

    def __init__(self, seed: int, session: Session) -> None:
        self._draw = Draws(seed, session.path)
        self._session = session
        #: The names of exports, by their ids.
        self._exported: dict[str, str] = {}
        #: The jobs that go on until they are cancelled.
        self._lasting: set[str] = set()
        draw = self._draw
        self._steps: list[tuple[int, Callable[[], object]]] = [
            (25, self._add),
            (8, self._delete),
            (10, self._reopen),
            (10, lambda: self._send("block-dirty-bitmap-add", draw.new_bitmap())),
            (9, self._change_bitmap),
            (4, lambda: self._send("block-dirty-bitmap-merge", draw.merge())),
            (8, self._transaction),
            (14, self._backup),
            (6, self._tell_job),
            (8, self._add_export),
            (10, self._request),
            (3, self._remove_export),
            (3, self._serve),
            (4, self._resize),
            (2, self._threshold),
            (2, self._change_backing_file),
            (5, self._change_group),
            (2, self._snapshot),
            (5, self._query),
        ]

    def run(self, steps: int) -> None:
        """Send so many, then look at what is there."""
        session = self._session
        for number in range(2):
            session.file(f"f{number}.raw", SIZE, (1, 0, 64 * KIB), (2, 128 * KIB, 4 * KIB))
            session.tool("qemu-img", "create", "-q", "-f", "qcow2", f"q{number}.qcow2", "256K")
        session.qmp("object-add", qom_type="throttle-group", id="group")
        session.qmp("blockdev-add", driver="null-co", node_name="target", size=SIZE)
        if self._draw.often(0.8):
            session.nbd_server()
        for _ in range(20):
            if len(self._draw.there) < 3:
                self._add()
        weights = [weight for weight, _ in self._steps]
        for _ in range(steps):
            self._draw.random.choices(self._steps, weights)[0][1]()
        for query in ("query-named-block-nodes", "query-block-exports", "query-jobs"):
            self._send(query)
        for name in EXPORTS:
            self._send("block-export-del", {"id": name, "mode": "hard"})
        for number in range(2):
            session.content(f"f{number}.raw")

    def _send(self, command: str, arguments: Json | None = None) -> bool:
        """Send a command, sometimes with a mistake; return whether it has succeeded."""
        if arguments and self._draw.often(_SPOILT):
            self._draw.spoil(arguments)
        message: Json = {"execute": command} | ({"arguments": arguments} if arguments else {})
        return self._session.raw(json.dumps(message), command=command) is not None

    # -- nodes ------------------------------------------------------------------------------

    def _add(self) -> None:
        options = self._draw.node()
        if self._send("blockdev-add", options):
            self._draw.there[options["node-name"]] = options

    def _delete(self) -> None:
        arguments = {"node-name": self._draw.name()}
        if self._send("blockdev-del", arguments):
            del self._draw.there[arguments["node-name"]]

    def _reopen(self) -> None:
        arguments = self._draw.reopenings()
        if self._send("blockdev-reopen", arguments):
            self._draw.there |= {one["node-name"]: one for one in arguments["options"]}

    def _resize(self) -> None:
        sizes = (0, 1, 512, 1000, 64 * KIB, SIZE, SIZE, SIZE + 512, SIZE + 1, 2 * SIZE, -1)
        node = self._draw.any("node-name", "node-name", "node-name", "device")
        arguments = {node: self._draw.name(), "size": self._draw.any(*sizes)}
        self._send("block_resize", arguments)

    def _threshold(self) -> None:
        offset = self._draw.any(0, 4 * KIB, 100 * KIB, SIZE, -1)
        arguments = {"node-name": self._draw.name(), "write-threshold": offset}
        self._send("block-set-write-threshold", arguments)

    def _change_backing_file(self) -> None:
        name = self._draw.name()
        arguments = {
            "device": name,
            "image-node-name": self._draw.any(name, name, self._draw.name()),
            "backing-file": self._draw.any("", "f0.raw", "none.raw", "x" * 1024),
        }
        self._send("change-backing-file", arguments)

    def _snapshot(self) -> None:
        arguments = {"node": self._draw.name(), "overlay": self._draw.name()}
        self._send("blockdev-snapshot", arguments)

    # -- bitmaps and jobs -------------------------------------------------------------------

    def _change_bitmap(self) -> None:
        command = self._draw.any(
            *(f"block-dirty-bitmap-{verb}" for verb in ("remove", "clear", "enable", "disable")),
            "x-debug-block-dirty-bitmap-sha256",
        )
        self._send(command, self._draw.bitmap())

    def _settle(self) -> None:
        """Wait until no job does anything by itself."""
        self._session.until_told("query-jobs", self._settled)
        self._send("query-jobs")  # what comes later is not the job's

    def _settled(self, jobs: list[Json]) -> bool:
        self._lasting &= {job["id"] for job in jobs}
        return all(job["status"] in _SETTLED or job["id"] in self._lasting for job in jobs)

    def _begun(self, job: Json) -> None:
        if job["sync"] == "none":
            self._lasting.add(job["job-id"] if "job-id" in job else job["device"])

    def _backup(self) -> None:
        job = self._draw.backup()
        if self._send("blockdev-backup", job):
            self._begun(job)
            self._settle()

    def _transaction(self) -> None:
        draw = self._draw
        drawn: dict[str, Callable[[], Json]] = {
            "block-dirty-bitmap-add": draw.new_bitmap,
            "block-dirty-bitmap-remove": draw.bitmap,
            "block-dirty-bitmap-clear": draw.bitmap,
            "block-dirty-bitmap-disable": draw.bitmap,
            "block-dirty-bitmap-merge": draw.merge,
            "blockdev-snapshot": lambda: {"node": draw.name(), "overlay": draw.name()},
            "abort": dict,
        }
        types = [draw.any(*drawn) for _ in range(draw.random.randint(0, 3))]
        actions: list[Json] = [{"type": name, "data": drawn[name]()} for name in types]
        if draw.often(0.3):  # one alone: the events of two have no order
            actions.append({"type": "blockdev-backup", "data": draw.backup()})
        mode = draw.some(0.3, properties={"completion-mode": draw.any("individual", "grouped")})
        if self._send("transaction", {"actions": actions, **mode}):
            for action in actions:
                if action["type"] == "blockdev-backup":
                    self._begun(action["data"])
            self._settle()

    def _tell_job(self) -> None:
        verb = self._draw.any(
            *("dismiss", "dismiss", "finalize", "cancel", "cancel", "complete"),
            *("pause", "resume", "set-speed"),
        )
        name = self._draw.any(*JOBS)
        if verb == "set-speed":
            speed = self._draw.any(0, 1 << 40, -1)
            self._send("block-job-set-speed", {"device": name, "speed": speed})
            return
        goes_on = verb == "cancel" and name in self._lasting  # then what follows has no order
        if self._draw.often(0.5) and not goes_on:
            done = self._send(f"job-{verb}", {"id": name})
        else:
            done = self._send(f"block-job-{verb}", self._told(verb, name))
        if done and verb == "cancel":
            self._lasting.discard(name)
        self._settle()

    def _told(self, verb: str, name: str) -> Json:
        if verb in {"dismiss", "finalize"}:
            return {"id": name}
        force = self._draw.some(0.3, force=self._draw.often(0.5)) if verb == "cancel" else {}
        return {"device": name} | force

    # -- exports ----------------------------------------------------------------------------

    def _add_export(self) -> None:
        options = self._draw.export()
        if self._send("block-export-add", options):
            self._exported[options["id"]] = options["name" if "name" in options else "node-name"]

    def _remove_export(self) -> None:
        mode = self._draw.some(0.3, mode=self._draw.any("safe", "hard"))
        arguments = {"id": self._draw.any(*EXPORTS), **mode}
        if self._send("block-export-del", arguments):
            self._session.event("BLOCK_EXPORT_DELETED")
            self._exported.pop(arguments["id"], None)

    def _serve(self) -> None:
        """Use the commands that are older than those for exports."""
        match self._draw.any("add", "add", "add", "remove", "stop", "start"):
            case "add":
                options = self._draw.server_export()
                if self._send("nbd-server-add", options):
                    name = options["name" if "name" in options else "device"]
                    self._exported[name] = name
            case "remove":
                mode = self._draw.some(0.3, mode=self._draw.any("safe", "hard"))
                arguments = {"name": self._draw.any(*EXPORTS), **mode}
                if self._send("nbd-server-remove", arguments):
                    self._session.event("BLOCK_EXPORT_DELETED")
                    self._exported.pop(arguments["name"], None)
            case "stop" if len(self._exported) < 2:  # several go in any order
                if self._send("nbd-server-stop"):
                    self._exported.clear()
            case _:
                self._session.nbd_server()

    def _request(self) -> None:
        """Be a client of an export."""
        if not self._exported:
            return
        draw = self._draw
        name = self._exported[draw.any(*sorted(self._exported))]
        verb = draw.any("write -P 5", "write -P 6", "write -z", "write -z -u", "discard", "read")
        offset = draw.random.randrange(0, SIZE, 512)
        length = min(draw.any(512, 4 * KIB, 64 * KIB, 96 * KIB), SIZE - offset)
        options = ("-r",) if verb == "read" else ()
        request = f"{verb} {offset} {length}"
        self._session.tool(
            "qemu-io", *options, "-f", "raw", "-c", request, self._session.uri(name)
        )

    # -- objects and questions --------------------------------------------------------------

    def _change_group(self) -> None:
        draw = self._draw
        path = f"/objects/{draw.any(*GROUPS)}"
        match draw.any("add", "add", "del", "set", "set", "get", "list"):
            case "add":
                self._send("object-add", draw.group())
            case "del":
                self._send("object-del", {"id": draw.any(*GROUPS)})
            case "set":
                name, value = draw.any(
                    ("limits", draw.limits()),
                    ("x-iops-total", draw.any(0, 1 << 40, -1)),
                    ("x-bps-read-max", draw.any(0, 1 << 40)),
                    ("x-iops-total-max-length", draw.any(0, 1, 5)),
                    ("type", "zzz"),
                    ("zzz", 1),
                )
                self._send("qom-set", {"path": path, "property": name, "value": value})
            case "get":
                name = draw.any("limits", "type", "x-iops-total", "x-bps-read-max", "zzz")
                self._send("qom-get", {"path": path, "property": name})
            case _:
                self._send("qom-list", {"path": draw.any(path, "/objects")})

    def _query(self) -> None:
        query = self._draw.any(*_QUERIES)
        more: Json = {}
        if query == "query-blockstats":
            more = self._draw.some(0.7, query_nodes=True)
        elif query == "query-named-block-nodes":
            more = self._draw.some(0.5, flat=self._draw.often(0.7))
        self._send(query, more)


def difference(seed: int, steps: int = _STEPS) -> list[str]:
    """Run one seed on both daemons; return the lines where they first differ, none if equal."""
    return random_runs.difference(lambda d: Commands(seed, d).run(steps), _kept)


def _kept(lines: list[str]) -> list[str]:
    """Return what was answered; warnings, and what files occupy, are another matter."""
    kept: list[str] = []
    for line in lines:
        if kept and _PAUSE in kept[-1] and line == kept[-1].replace('"paused"', '"running"'):
            kept.pop()  # a drain; how many a command takes is not compared
        elif not line.startswith("stderr:"):
            kept.append(_comparable(line))
    return kept


def _comparable(line: str) -> str:
    line = _SHARED.sub(r"\1", _OCCUPIED.sub("", line))
    return _TURNED.sub(r"\2, \1", line)


if __name__ == "__main__":
    sys.exit(random_runs.main(difference))
