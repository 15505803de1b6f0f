"""Random qcow2 images: made with QEMU's tools, served and changed by both daemons.

    python -m tests.oracle.random_qcow2 FIRST LAST [STEPS]

runs these seeds on both, and prints for each that differs where it first does. What is
compared: what a client reads and is told of the disk, what queries tell of the image, and what
qemu-img finds in the image afterwards. Not where clusters lie in the file, nor how many.
"""

import re
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from tests.oracle import random_runs
from tests.oracle.random_draws import KIB, Json
from tests.oracle.random_images import summary
from tests.oracle.random_served import LEAKS, SOUND, Served, under
from tests.oracle.session import Session

_STEPS: Final = 12
#: How a file is laid out, how far it was written, whether refcounts lag behind at the moment.
_PLACES: Final = re.compile(
    r'"(actual-size|wr_highest_offset)": \d+'
    r'|"dirty-flag": \w+'
    r'|"virtual-size": \d+, (?="filename": "[^"]*.qcow2", "format": "file")'
)
#: What qemu-img check says of how much is allocated, compressed and in order.
_FIGURES: Final = re.compile(r"^  (Image end offset: |\d+/\d+ = ).*")


class Use(Served):
    """One image, made, served, changed and checked."""

    def __init__(self, seed: int, session: Session) -> None:
        super().__init__(seed, session)
        #: How many other images there have been.
        self._count = 0

    def run(self, steps: int) -> None:
        """Do all of it."""
        draw, session = self.draw, self.session
        self.make()
        self.open()
        if not self.size:
            return
        self.look()
        self.changed = True
        for _ in range(steps):
            draw.random.choices(*zip(*self._steps(), strict=True))[0]()
        self.look()
        if draw.often(0.25):
            self._crash()
        else:
            session.finish()
            self.check("q.qcow2")

    def _steps(self) -> list[tuple[Callable[[], object], int]]:
        return [
            (self._write, 20),
            (self._flush, 2),
            (self._resize, 2),
            (self._bitmap, 4),
            (self._snapshot, 2),
            (self._reopen, 2),
            (self.query, 2),
            (self.map, 1),
            (self._backup_from, 2),
            (self._backup_to, 1),
            (self._fleece, 2),
            (self._create, 2),
        ]

    # -- changing ---------------------------------------------------------------------------

    def _write(self) -> None:
        if not self.exported or not self.size:
            return
        requests = [
            self.draw.request(self.size, self.made["cluster"])
            for _ in range(self.draw.any(1, 1, 2, 4))
        ]
        self.session.io("q", *requests)

    def _flush(self) -> None:
        if self.exported:
            self.session.io("q", "flush")

    def _resize(self) -> None:
        self.unexport()
        size = self.draw.size(self.made["cluster"])
        if size < self.size:  # QEMU shows what is left in the last cluster when it grows again
            size -= size % self.made["cluster"]
        elif self.header()[7] < 3 and any(self.header()[8:16]):
            return  # QEMU refuses to grow it over a longer backing file
        self.session.qmp("block_resize", node_name="q", size=size)
        self.export()
        self.look()

    def _bitmap(self) -> None:
        draw, session = self.draw, self.session
        name = draw.any("b0", "b1", "b2")
        match draw.any("add", "add", "remove", "clear", "disable", "enable", "merge"):
            case "add":
                options: Json = {"persistent": draw.often(0.8), "disabled": draw.often(0.2)}
                options["granularity"] = draw.any(512, 4 * KIB, 64 * KIB, 1024 * KIB)
                session.qmp("block-dirty-bitmap-add", node="q", name=name, **options)
            case "merge":
                bitmaps = [draw.any("b0", "b1", "b2")]
                session.qmp("block-dirty-bitmap-merge", node="q", target=name, bitmaps=bitmaps)
            case verb:
                session.qmp(f"block-dirty-bitmap-{verb}", node="q", name=name)
        if draw.often(0.5):
            self.unexport()
            self.export()

    def _snapshot(self) -> None:
        verb = self.draw.any("", "", "delete-")
        name = self.draw.any("s0", "s1", "s2")
        self.session.qmp(f"blockdev-snapshot-{verb}internal-sync", device="q", name=name)

    def _reopen(self) -> None:
        """Reopen the node with other options, or close the image and open it anew."""
        if self.draw.often(0.5):
            self.session.qmp("blockdev-reopen", options=[self.options()])
            return
        self.unexport()
        if self.session.qmp("blockdev-del", node_name="q") is None:
            return
        self.check("q.qcow2")
        if self.session.qmp("blockdev-add", **under(self.options())) is not None:
            self.export()
            self.look()

    # -- copying ----------------------------------------------------------------------------

    def _new(self, *, over: str = "") -> str:
        """Make an image as large as the disk; return its node's name, empty for none."""
        draw, session = self.draw, self.session
        self._count += 1
        name = f"t{self._count}"
        options = {**draw.layout(backing=bool(over)), "size": self.size}
        size = options.pop("size")
        words = ",".join(f"{key}={value}" for key, value in options.items())
        backing = ["-b", over, "-F", "qcow2", "-u"] if over else []
        session.tool(
            "qemu-img", "create", "-q", "-f", "qcow2", "-o", words, *backing,
            f"{name}.qcow2", str(size),
        )  # fmt: skip
        more: Json = {"backing": None} if over else {}
        if draw.often(0.3):
            more["discard"] = "unmap"
        done = session.qmp(
            "blockdev-add",
            driver="qcow2",
            node_name=name,
            file=self.file(f"{name}.qcow2"),
            **more,
        )
        return name if done is not None else ""

    def _job(self, source: str, target: str, sync: str, **more: Any) -> None:
        compressible = target != "q"  # a failure ends one program earlier than the other
        job: Json = {"job-id": "j", "device": source, "target": target, "sync": sync}
        job["x-perf"] = {"max-workers": 1}  # so that where it fails is known
        if compressible and self.draw.often(0.4):
            job["compress"] = True
        done = self.session.qmp("blockdev-backup", **under(job | more))
        if done is not None:
            self.session.until_told("query-jobs", lambda jobs: not jobs)

    def _backup_from(self) -> None:
        draw, session = self.draw, self.session
        sync = draw.any("full", "top", "bitmap", "bitmap")
        target = self._new()
        if not target:
            return
        more: Json = {}
        if sync == "bitmap":
            more = {
                "bitmap": draw.any("b0", "b1", "b2"),
                "bitmap-mode": draw.any("on-success", "never", "always"),
            }
        self._job("q", target, sync, **under(more))
        session.qmp("blockdev-del", node_name=target)
        self.check(f"{target}.qcow2")
        (session.dir / f"{target}.qcow2").unlink()

    def _backup_to(self) -> None:
        """Copy another image over this one."""
        session = self.session
        if not self.solid and self.header()[7] < 3:
            return  # zeroes leave no cluster there, and what is zero depends on holes
        source = self._new()
        if not source:
            return
        session.qmp("block-export-add", type="nbd", id="s", node_name=source, writable=True)
        requests = [self.draw.request(self.size, self.made["cluster"]) for _ in range(3)]
        if self.size:
            session.io(source, *requests)
        if session.qmp("block-export-del", id="s") is not None:
            session.event("BLOCK_EXPORT_DELETED")
        self.unexport()
        self._job(source, "q", self.draw.any("full", "top"))
        session.qmp("blockdev-del", node_name=source)
        self.export()
        self.look()

    def _fleece(self) -> None:
        """Write to the image under a filter that keeps the old data in another image."""
        draw, session = self.draw, self.session
        if not self.size:
            return
        target = self._new(over=draw.any("", "q.qcow2"))
        if not target:
            return
        self.unexport()
        session.qmp(
            "blockdev-add", driver="copy-before-write", node_name="cbw", file="q", target=target
        )
        session.qmp("blockdev-add", driver="snapshot-access", node_name="access", file="cbw")
        for name, writable in (("cbw", True), ("access", False)):
            session.qmp("block-export-add", type="nbd", id=name, node_name=name, writable=writable)
        for _ in range(2):
            request = [draw.request(self.size, self.made["cluster"]) for _ in range(2)]
            session.io("cbw", *request)
            self._snapshot_content()
        for name in ("access", "cbw"):
            if session.qmp("block-export-del", id=name) is not None:
                session.event("BLOCK_EXPORT_DELETED")
            session.qmp("blockdev-del", node_name=name)
        session.qmp("blockdev-del", node_name=target)
        self.check(f"{target}.qcow2", "-U")
        (session.dir / f"{target}.qcow2").unlink()
        self.export()
        self.look()

    def _snapshot_content(self) -> None:
        """Read the snapshot: in pieces, as QEMU takes longer ones from the active disk.

        Without structured replies: QEMU's have holes where the snapshot has data.
        """
        session = self.session
        entries = len(session.transcript.entries)
        client = session.nbd(None)
        client.go("access", structured=False)
        path = session.dir / "out.raw"
        with path.open("wb") as file:
            for offset in range(0, self.size, 64 * KIB):
                file.write(client.read(offset, min(64 * KIB, self.size - offset)))
        client.close()
        del session.transcript.entries[entries:]
        session.transcript.add(f"# access: {summary(path)}")
        path.unlink()

    def _create(self) -> None:
        """Let the daemon make an image."""
        draw, session = self.draw, self.session
        layout = draw.layout(backing=False)
        words = {"on": True, "off": False, "0.10": "v2", "1.1": "v3"}
        options: Json = {
            {"compat": "version"}.get(name, name).replace("_", "-"): words.get(value, value)
            for name, value in layout.items()
        }
        for name in ("cluster-size", "refcount-bits"):
            if name in options:
                options[name] = int(options[name])
        if draw.often(0.3):
            options |= {"backing-file": "q.qcow2", "backing-fmt": draw.any("qcow2", "raw")}
        if draw.often(0.2):
            data = {"node-name": "d", "filename": session.file("made.data", 0)}
            session.qmp("blockdev-add", driver="file", **under(data))
            options |= {"data-file": "d", "data-file-raw": draw.often(0.5)}
        path = session.file("made.qcow2", 0)
        session.qmp("blockdev-add", driver="file", node_name="f", filename=path)
        options |= {"driver": "qcow2", "file": "f", "size": draw.size(int(layout["cluster_size"]))}
        if session.qmp("blockdev-create", job_id="c", options=options) is not None:
            session.until_told("query-jobs", lambda jobs: jobs[0]["status"] == "concluded")
            session.qmp("query-jobs")
            session.qmp("job-dismiss", id="c")
        for name in ("d", "f"):
            session.qmp("blockdev-del", node_name=name)
        session.tool("qemu-img", "info", "made.qcow2")
        self.references("made.qcow2")
        if "backing-file" not in options:  # which is in use
            self.extents("made.qcow2")

    # -- the end ----------------------------------------------------------------------------

    def _crash(self) -> None:
        """Kill the daemon after requests that nobody has asked to be flushed."""
        draw, session = self.draw, self.session
        if not self.exported or not self.size:
            return
        self._flush()
        requests = [draw.request(self.size, self.made["cluster"]) for _ in range(6)]
        unsafe = []
        words = []
        for request in requests:
            *_, offset, length = request.split()
            unsafe.append((int(offset), int(length)))
            words += ["-c", request]
        shell = " ".join(f"'{word}'" for word in words)
        uri = session.uri("q")
        # qemu-io is killed, too: at its end it would flush.
        script = f"qemu-io -f raw -d unmap {shell} -c 'sigraise 9' '{uri}'"
        session.tool("sh", "-c", f"{script} >/dev/null 2>&1; true")
        session.kill(signal.SIGKILL)
        self._repaired()
        self.content("q.qcow2", "qcow2", without=tuple(unsafe))

    def _repaired(self) -> None:
        session = self.session
        before = len(session.transcript.entries)
        text = session.tool("sh", "-c", "qemu-img check q.qcow2 2>&1")
        lazy = self.is_dirty()
        session.tool("sh", "-c", "qemu-img check -q -r all q.qcow2 2>&1")
        del session.transcript.entries[before:]
        if "ERROR" in text and not lazy:
            session.transcript.add(f"# there are errors: {text}")
        session.tool("sh", "-c", "qemu-img check q.qcow2 2>&1")


def difference(seed: int, steps: int = _STEPS) -> list[str]:
    """Run one seed on both daemons; return the lines where they first differ, none if equal."""
    return random_runs.difference(lambda d: Use(seed, d).run(steps), _kept, _without_leaks)


def _kept(lines: list[str]) -> list[str]:
    return [
        _PLACES.sub("", line)
        for line in lines
        if not (line.startswith("stderr:") or _FIGURES.match(line) or "disk size: " in line)
    ]


def _without_leaks(line: str) -> str:
    return line.replace(LEAKS, SOUND) if line.startswith("#") else line


if __name__ == "__main__":
    sys.exit(random_runs.main(difference))
