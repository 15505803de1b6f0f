"""Random commands: what nobody thought of writing a scenario for.

    python -m tests.oracle.random_commands FIRST LAST [STEPS]

runs these seeds on both daemons, and prints for each that differs where it first does.

Names are few, so that commands meet each other. Not drawn is what would only show a listed
deviation (targets of a filter that others use), depend on time (jobs that go on for ever), or
kill QEMU 7.2: to enable a bitmap that is not there in a transaction, to merge none.
"""

import json
import random
import re
import sys
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, Final

from tests.oracle import scenario
from tests.oracle.session import Session

KIB: Final = 1024
_SIZE: Final = 256 * KIB
_STEPS: Final = 40
_NODES: Final = ("n0", "n1", "n2", "n3", "n4")
_BITMAPS: Final = ("b0", "b1")
_JOBS: Final = ("j0", "j1")
_EXPORTS: Final = ("e0", "e1", "e2")
_SETTLED: Final = frozenset({"concluded", "pending"})
#: Where QEMU has died of an assertion, there is nothing to compare any more.
_DIED: Final = "** the connection ended"
#: What files occupy, and where those of qcow2 images end.
_OCCUPIED: Final = re.compile(
    r', "actual-size": \d+|"virtual-size": \d+, (?="filename": "TMP/q\d.qcow2", "format": "file")'
)

Json = dict[str, Any]


class Commands:
    """Draws commands and sends them.

    Args:
        seed: Decides everything.
        session: To send them to.
    """

    def __init__(self, seed: int, session: Session) -> None:
        self._random = random.Random(seed)
        self._session = session
        self._there: list[str] = []
        #: The names of exports, by their ids.
        self._exported: dict[str, str] = {}
        self._steps: list[tuple[int, Callable[[], None]]] = [
            (25, self._add),
            (8, self._delete),
            (10, lambda: self._send("block-dirty-bitmap-add", self._new_bitmap())),
            (9, self._change_bitmap),
            (4, lambda: self._send("block-dirty-bitmap-merge", self._merge())),
            (8, self._transaction),
            (14, self._backup),
            (5, self._tell_job),
            (8, self._add_export),
            (10, self._request),
            (3, self._remove_export),
            (2, self._snapshot),
            (4, self._query),
        ]

    def run(self, steps: int) -> None:
        """Send so many, then look at what is there."""
        session = self._session
        for number in range(2):
            session.file(f"f{number}.raw", _SIZE, (1, 0, 64 * KIB), (2, 128 * KIB, 4 * KIB))
            session.tool("qemu-img", "create", "-q", "-f", "qcow2", f"q{number}.qcow2", "256K")
        session.qmp("object-add", qom_type="throttle-group", id="group")
        session.qmp("blockdev-add", driver="null-co", node_name="target", size=_SIZE)
        if self._often(0.8):
            session.nbd_server()
        for _ in range(4):
            self._add()
        weights = [weight for weight, _ in self._steps]
        for _ in range(steps):
            self._random.choices(self._steps, weights)[0][1]()
        for query in ("query-named-block-nodes", "query-block-exports", "query-jobs"):
            self._send(query)
        for name in _EXPORTS:
            self._send("block-export-del", {"id": name, "mode": "hard"})
        for number in range(2):
            session.content(f"f{number}.raw")

    # -- drawing ----------------------------------------------------------------------------

    def _often(self, share: float) -> bool:
        return self._random.random() < share

    def _some(self, share: float, **options: Any) -> Json:
        """Return options, or none of them."""
        named = {name.replace("_", "-"): value for name, value in options.items()}
        return named if self._often(share) else {}

    def _any(self, *values: Any) -> Any:
        return self._random.choice(values)

    def _name(self) -> str:
        if self._there and self._often(0.8):
            return self._any(*self._there)
        return self._any("none", *_NODES)

    def _new_name(self) -> str:
        missing = [name for name in _NODES if name not in self._there]
        return self._any(*missing) if missing and self._often(0.8) else self._any(*_NODES)

    def _bitmap(self) -> Json:
        return {"node": self._name(), "name": self._any(*_BITMAPS)}

    def _source(self) -> str | Json:
        return self._any(*_BITMAPS) if self._often(0.5) else self._bitmap()

    def _child(self, depth: int) -> str | Json:
        if depth or self._often(0.6):
            return self._name()
        return self._node(depth + 1, named=self._often(0.2))

    def _node(self, depth: int = 0, *, named: bool = True) -> Json:
        driver = self._any(
            *("file", "file", "file", "raw", "raw", "qcow2", "null-co", "null-aio"),
            *("copy-before-write", "copy-before-write", "snapshot-access", "throttle"),
        )
        options: Json = {"driver": driver} | ({"node-name": self._new_name()} if named else {})
        if driver == "file":
            options["filename"] = self._session.path(self._any("f0.raw", "f1.raw", "none.raw"))
            options |= self._some(0.1, locking=self._any("on", "off", "auto"))
        elif driver == "qcow2":
            path = self._session.path(self._any("q0.qcow2", "q1.qcow2", "f0.raw"))
            options["file"] = {"driver": "file", "filename": path}
            options |= self._some(0.2, backing=self._any(None, self._name()))
        elif driver.startswith("null"):
            options |= {"size": _SIZE} | self._some(0.3, read_zeroes=True)
        else:
            options["file"] = self._child(depth)
        if driver == "copy-before-write":
            options["target"] = {"driver": "null-co", "size": _SIZE}
            options |= self._some(0.2, bitmap=self._bitmap())
            options |= self._some(0.2, on_cbw_error=self._any("break-snapshot", "zzz"))
        if driver == "throttle":
            options["throttle-group"] = self._any("group", "group", "none")
        return options | self._common()

    def _common(self) -> Json:
        return {
            **self._some(0.15, read_only=self._often(0.5)),
            **self._some(0.1, auto_read_only=self._often(0.7)),
            **self._some(0.1, discard=self._any("unmap", "ignore")),
            **self._some(0.1, detect_zeroes=self._any("on", "off", "unmap")),
            **self._some(0.08, cache={"no-flush": self._often(0.5)}),
            **self._some(0.05, force_share=True),
            **self._some(0.02, zzz=1),
        }

    def _new_bitmap(self) -> Json:
        return {
            **self._bitmap(),
            **self._some(0.3, granularity=self._any(256, 512, 1000, 4 * KIB, 64 * KIB)),
            **self._some(0.2, persistent=self._often(0.7)),
            **self._some(0.2, disabled=True),
        }

    def _merge(self) -> Json:
        bitmaps = [self._source() for _ in range(self._random.randint(1, 3))]
        return {"node": self._name(), "target": self._any(*_BITMAPS), "bitmaps": bitmaps}

    def _job(self) -> Json:
        sync = self._any("full", "full", "full", "top", "incremental", "bitmap")
        device = self._name()
        has_bitmap = sync in {"incremental", "bitmap"}
        return {
            "device": device,
            "target": self._any("target", "target", "target", "none", device),
            "sync": sync,
            **self._some(0.95, job_id=self._any(*_JOBS)),
            **self._some(0.9 if has_bitmap else 0.1, bitmap=self._any(*_BITMAPS)),
            **self._some(
                0.9 if sync == "bitmap" else 0.1,
                bitmap_mode=self._any("on-success", "never", "always"),
            ),
            **self._some(0.3, auto_dismiss=False),
            **self._some(0.2, auto_finalize=False),
            **self._some(0.1, compress=True),
            **self._some(0.1, filter_node_name=self._any("filter", *_NODES)),
        }

    def _export(self) -> Json:
        return {
            "type": "nbd",
            "id": self._any(*_EXPORTS),
            "node-name": self._name(),
            **self._some(0.5, writable=self._often(0.7)),
            **self._some(0.3, name=self._any("x", "y")),
            **self._some(0.2, bitmaps=[self._source()]),
            **self._some(0.1, allocation_depth=True),
            **self._some(0.1, description="words"),
        }

    # -- sending ----------------------------------------------------------------------------

    def _send(self, command: str, arguments: Json | None = None) -> bool:
        """Send a command; return whether it has succeeded."""
        message: Json = {"execute": command} | ({"arguments": arguments} if arguments else {})
        return self._session.raw(json.dumps(message), command=command) is not None

    def _add(self) -> None:
        options = self._node()
        if self._send("blockdev-add", options):
            self._there.append(options["node-name"])

    def _delete(self) -> None:
        name = self._name()
        if self._send("blockdev-del", {"node-name": name}):
            self._there.remove(name)

    def _settle(self) -> None:
        """Wait until no job does anything by itself."""
        self._session.until_told(
            "query-jobs", lambda jobs: all(job["status"] in _SETTLED for job in jobs)
        )
        self._send("query-jobs")  # what comes later is not the job's

    def _backup(self) -> None:
        if self._send("blockdev-backup", self._job()):
            self._settle()

    def _change_bitmap(self) -> None:
        command = self._any(
            *(f"block-dirty-bitmap-{verb}" for verb in ("remove", "clear", "enable", "disable")),
            "x-debug-block-dirty-bitmap-sha256",
        )
        self._send(command, self._bitmap())

    def _transaction(self) -> None:
        drawn: dict[str, Callable[[], Json]] = {
            "block-dirty-bitmap-add": self._new_bitmap,
            "block-dirty-bitmap-remove": self._bitmap,
            "block-dirty-bitmap-clear": self._bitmap,
            "block-dirty-bitmap-disable": self._bitmap,
            "block-dirty-bitmap-merge": self._merge,
            "blockdev-snapshot": lambda: {"node": self._name(), "overlay": self._name()},
            "abort": dict,
        }
        types = [self._any(*drawn) for _ in range(self._random.randint(0, 3))]
        actions = [{"type": name, "data": drawn[name]()} for name in types]
        if self._often(0.3):  # one alone: the events of two have no order
            actions.append({"type": "blockdev-backup", "data": self._job()})
        mode = self._some(0.3, properties={"completion-mode": self._any("individual", "grouped")})
        if self._send("transaction", {"actions": actions, **mode}):
            self._settle()

    def _tell_job(self) -> None:
        verb = self._any("dismiss", "dismiss", "finalize", "cancel", "complete", "pause", "resume")
        self._send(f"job-{verb}", {"id": self._any(*_JOBS)})
        self._settle()

    def _add_export(self) -> None:
        options = self._export()
        if self._send("block-export-add", options):
            self._exported[options["id"]] = options.get("name", options["node-name"])

    def _remove_export(self) -> None:
        mode = self._some(0.3, mode=self._any("safe", "hard"))
        name = self._any(*_EXPORTS)
        if self._send("block-export-del", {"id": name, **mode}):
            self._session.event("BLOCK_EXPORT_DELETED")
            self._exported.pop(name, None)

    def _request(self) -> None:
        """Be a client of an export."""
        if not self._exported:
            return
        name = self._exported[self._any(*sorted(self._exported))]
        verb = self._any("write -P 5", "write -P 6", "write -z", "write -z -u", "discard", "read")
        offset = self._random.randrange(0, _SIZE, 512)
        length = min(self._any(512, 4 * KIB, 64 * KIB, 96 * KIB), _SIZE - offset)
        options = ("-r",) if verb == "read" else ()
        request = f"{verb} {offset} {length}"
        self._session.tool(
            "qemu-io", *options, "-f", "raw", "-c", request, self._session.uri(name)
        )

    def _snapshot(self) -> None:
        self._send("blockdev-snapshot", {"node": self._name(), "overlay": self._name()})

    def _query(self) -> None:
        self._send(self._any("query-named-block-nodes", "query-block-exports", "query-jobs"))


def difference(seed: int, steps: int = _STEPS) -> list[str]:
    """Run one seed on both daemons; return the lines where they first differ, none if equal."""
    pair = scenario.STORAGE_DAEMON
    qemu, ours = (_run(seed, steps, program) for program in (pair.qemu, pair.ours))
    if any(line.startswith(_DIED) for line in qemu):
        # Its last reply is the last thing that counts: it may have died of a client's request.
        end = 1 + max(at for at, line in enumerate(qemu) if line.startswith("<-"))
        qemu, ours = qemu[:end], ours[:end]
    for at, (theirs, own) in enumerate(zip_longest(qemu, ours)):
        if theirs != own:
            return [*qemu[max(0, at - 4) : at], f"-{theirs}", f"+{own}"]
    return []


def _run(seed: int, steps: int, program: scenario.Program) -> list[str]:
    """Return what was answered; warnings, and what files occupy, are another matter."""
    lines = scenario.run_function(lambda d: Commands(seed, d).run(steps), program)
    return [_OCCUPIED.sub("", line) for line in lines if not line.startswith("stderr:")]


def main() -> int:
    """Run the command line; the status is 1 when a seed differs."""
    first, last, *more = (int(word) for word in sys.argv[1:])
    failed = 0
    for seed in range(first, last):
        lines = difference(seed, *more)
        failed += bool(lines)
        for line in [f"=== {seed}", *lines] if lines else []:
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{last - first} seeds, {failed} differ\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
