"""One random qcow2 image: made, opened, exported, and everything that can be seen of it."""

import json
from typing import Any, Final

from tests.oracle.random_draws import Json
from tests.oracle.random_images import ImageDraws, summary
from tests.oracle.session import Session

#: What is known of an image's references; QEMU's may leak where a snapshot was refused.
SOUND: Final = "no errors"
LEAKS: Final = "leaks"


class Served:
    """An image ``q.qcow2``, its node ``q`` and its export.

    Args:
        seed: Decides everything.
        session: Where it is made.

    Attributes:
        draw: Draws what is done.
        session: Where it is made.
        made: What it was made with.
        size: Bytes of the disk, 0 where there is none.
        exported: Whether a client can connect.
        bitmaps: The names of the bitmaps that the export shows.
        changed: Whether the daemon has been given something to change.
    """

    def __init__(self, seed: int, session: Session) -> None:
        self.draw = ImageDraws(seed, session)
        self.session = session
        self.made: Json = {}
        self.size = 0
        self.exported = False
        self.bitmaps: list[str] = []
        self.changed = False
        #: Whether no cluster can be a hole of the file; where one can is another matter.
        self.solid = self.draw.small

    def make(self) -> None:
        """Make the image, and use it with tools."""
        draw, session = self.draw, self.session
        base = draw.base("base")
        self.made = draw.create("q.qcow2", base)
        draw.use("q.qcow2", self.made)
        if not self.is_dirty():  # a snapshot that qemu-img could not take leaks
            session.tool("qemu-img", "check", "-q", "-r", "leaks", "q.qcow2")
        session.tool("qemu-img", "info", "-U", "q.qcow2")

    def file(self, name: str) -> Json:
        """Return the definition of a file that gives back what is discarded."""
        return {"driver": "file", "filename": self.session.path(name), "discard": "unmap"}

    def options(self) -> Json:
        """Return the definition of the node."""
        draw = self.draw
        options: Json = {"driver": "qcow2", "node-name": "q", "file": self.file("q.qcow2")}
        cluster = self.made["cluster"]
        drawn: tuple[tuple[float, str, Any], ...] = (
            (0.7, "discard", "unmap"),
            (0.2, "detect-zeroes", draw.any("on", "unmap")),
            (0.2, "lazy-refcounts", draw.often(0.5)),
            (0.2, "l2-cache-size", 2 * cluster),
            (0.2, "l2-cache-entry-size", max(512, cluster // draw.any(1, 2, 4, 16))),
            (0.2, "refcount-cache-size", 4 * cluster),
            (0.2, "overlap-check", draw.any("none", "constant", "all")),
            (0.2, "pass-discard-request", draw.often(0.5)),
            (0.2, "pass-discard-other", draw.often(0.5)),
            (0.05, "backing", None),
        )
        return options | {name: value for share, name, value in drawn if draw.often(share)}

    def open(self) -> None:
        """Open the image, and export it."""
        session = self.session
        session.nbd_server()
        self.size = 0
        if session.qmp("blockdev-add", **under(self.options())) is None:
            return
        self.export()

    def export(self) -> None:
        """Export the node, if it is there."""
        session = self.session
        nodes = session.qmp("query-named-block-nodes", flat=True)
        node = next((one for one in nodes if one["node-name"] == "q"), None)
        if node is None:
            self.size = 0
            return
        self.size = node["image"]["virtual-size"]
        self.bitmaps = [
            one["name"] for one in node.get("dirty-bitmaps", []) if not one.get("inconsistent")
        ]
        done = session.qmp(
            "block-export-add", type="nbd", id="e", node_name="q", writable=True,
            allocation_depth=True, bitmaps=self.bitmaps,
        )  # fmt: skip
        self.exported = done is not None

    def unexport(self) -> None:
        """Remove the export."""
        if self.exported and self.session.qmp("block-export-del", id="e") is not None:
            self.session.event("BLOCK_EXPORT_DELETED")
        self.exported = False

    # -- looking ----------------------------------------------------------------------------

    def look(self) -> None:
        """Write down what queries and clients are told of the disk, and what they read."""
        self.query()
        if not self.exported or not self.size:
            return
        self.content(self.session.uri("q"), "raw")
        self.map()

    def content(self, where: str, kind: str, *, without: tuple[tuple[int, int], ...] = ()) -> None:
        session = self.session
        session.tool("sh", "-c", f"qemu-img convert -f {kind} -O raw '{where}' out.raw 2>&1")
        path = session.dir / "out.raw"
        if not path.exists():
            return
        with path.open("r+b") as file:
            for offset, length in without:
                file.seek(offset)
                file.write(bytes(length))
        session.transcript.add(f"# {where}: {summary(path)}")
        path.unlink()

    def map(self) -> None:
        """Write down what a client is told of parts of the disk."""
        if not self.exported:
            return
        contexts = ["base:allocation"] if self.solid or not self.changed else []
        contexts += ["qemu:allocation-depth"]
        contexts += [f"qemu:dirty-bitmap:{name}" for name in self.bitmaps]
        for context in contexts:
            self.session.nbdinfo("q", f"--map={context}")

    def query(self) -> None:
        """Write down what is told of all nodes."""
        self.session.qmp("query-named-block-nodes", flat=self.draw.often(0.5))

    def check(self, name: str, *options: str) -> None:
        """Write down what tools find in an image that nobody uses."""
        session = self.session
        self.references(name, *options)
        self.extents(name)
        self.content(name, "qcow2")
        session.tool("qemu-img", "info", name)

    def references(self, name: str, *options: str) -> None:
        """Write down whether qemu-img finds an image sound."""
        session = self.session
        before = len(session.transcript.entries)
        text = session.tool("qemu-img", "check", *options, name)
        if "No errors were found" in text:
            session.transcript.entries[before:] = []
            session.transcript.add(f"# {name}: {SOUND}")
        elif "leaked clusters were found" in text and "errors were found" not in text:
            session.transcript.entries[before:] = []
            session.transcript.add(f"# {name}: {LEAKS}")

    def extents(self, name: str) -> None:
        """Write down what qemu-img map says but for where it is.

        In the copies of a disk whether zeroes are stored depends on how its file is laid out.
        """
        session = self.session
        before = len(session.transcript.entries)
        text = session.tool("qemu-img", "map", "--output=json", name)
        del session.transcript.entries[before + 1 :]
        merged: list[Json] = []
        for one in json.loads(text) if text.startswith("[") else []:
            at = {key: one.get(key) for key in ("depth", "present", "compressed")}
            if (self.solid and name == "q.qcow2") or not one["present"]:
                at |= {key: one[key] for key in ("zero", "data")}
            if merged and {**merged[-1], "start": 0, "length": 0} == {
                "start": 0,
                "length": 0,
                **at,
            }:
                merged[-1]["length"] += one["length"]
            else:
                merged.append({"start": one["start"], "length": one["length"], **at})
        for one in merged:
            session.transcript.add(f"  {one}")

    def header(self) -> bytes:
        """Return the fixed fields of the header."""
        return (self.session.dir / "q.qcow2").read_bytes()[:80]

    def is_dirty(self) -> bool:
        """Tell whether the image says that its refcounts may be wrong."""
        header = self.header()
        return header[7] > 2 and bool(header[79] & 1)


def under(options: Json) -> Json:
    """Return options as keyword arguments are named."""
    return {name.replace("-", "_"): value for name, value in options.items()}
