"""The disks of random NBD sessions: images of all kinds, and what commands do to them."""

import json
from typing import Final

from tests.oracle.nbd_draws import NbdDraws
from tests.oracle.random_draws import BITMAPS, KIB, SIZE, Json
from tests.oracle.session import Session

BIG: Final = 40 << 20
ODD: Final = 100_000
#: The nodes that have bitmaps of their own.
_WITH_BITMAPS: Final = ("f", "odd", "q")


class Disks:
    """The nodes of one session: files (``f``, ``odd``: no whole number of sectors, ``bad``:
    some requests fail), an image (``q``), a filter above one of them (``c``), its snapshot
    (``s``), a window (``w``) and nothing (``big``).

    Args:
        draw: Decides what is what.
        session: The daemon.

    Attributes:
        nodes: Those that are there.
    """

    def __init__(self, draw: NbdDraws, session: Session) -> None:
        self._draw = draw
        self._session = session
        self.nodes: list[str] = []

    def make_images(self) -> None:
        """Make a raw image, an odd one, and a qcow2 image with clusters of all kinds."""
        draw, session = self._draw, self._session
        session.file("f.raw", SIZE, (1, 0, 64 * KIB), (2, 128 * KIB, 4 * KIB))
        session.file("odd.raw", ODD, (3, 0, 1000), (4, 99_000, 1000))
        session.file("base.raw", draw.any(SIZE, SIZE // 2, ODD), (5, 0, 8 * KIB))
        create = ("qemu-img", "create", "-q", "-f", "qcow2")
        kinds = ("4k", "64k", "4k,lazy_refcounts=on", "64k,compat=0.10", "64k,extended_l2=on")
        options = ["-o", f"cluster_size={draw.any(*kinds)}"]
        match draw.any("raw", "qcow2", "none"):
            case "raw":
                options += ["-b", "base.raw", "-F", "raw"]
            case "qcow2":
                session.tool(*create, "-b", "base.raw", "-F", "raw", "base.qcow2", "128K")
                session.tool("qemu-io", "-f", "qcow2", "-c", "write -q -P 4 36k 8k", "base.qcow2")
                options += ["-b", "base.qcow2", "-F", "qcow2"]
        session.tool(*create, *options, "q.qcow2", "256K")
        writes = ["write -q -P 6 64k 64k", "write -q -z 192k 32k", "write -q -z -u 4k 4k"]
        writes += ["write -q -P 7 20k 4k"]
        words = [word for write in writes for word in ("-c", write)]
        session.tool("qemu-io", "-f", "qcow2", *words, "q.qcow2")
        session.tool("qemu-io", "-f", "qcow2", "-c", "write -q -c -P 8 128k 64k", "q.qcow2")
        # Without holes: QEMU takes a sparse image for one whose clusters were only allocated.
        image = session.dir / "q.qcow2"
        image.write_bytes(image.read_bytes())

    def add_nodes(self) -> None:
        """Add the nodes, and bitmaps."""
        draw, session = self._draw, self._session
        common = {"discard": draw.any("unmap", "unmap", "ignore")}
        detects = draw.some(0.3, detect_zeroes="unmap" if common["discard"] == "unmap" else "on")
        draw.holes = draw.holes and common["discard"] == "unmap"
        # Where a block is larger, and can't be read, QEMU writes garbage around a part of it.
        aligned = draw.some(0.6, align=draw.any(512, 4 * KIB, 64 * KIB))
        faults = [self._fault(reads=not aligned) for _ in range(draw.any(1, 2))]
        path = session.path
        self._add(
            driver="blkdebug",
            node_name="bad",
            image={"driver": "file", "filename": session.file("bad.raw", SIZE, (9, 0, 9 * KIB))},
            **aligned,
            **draw.some(0.7, inject_error=faults),
            **common,
        )
        self._add(driver="file", node_name="f", filename=path("f.raw"), **common, **detects)
        self._add(driver="file", node_name="odd", filename=path("odd.raw"), **common)
        file = {"driver": "file", "filename": path("q.qcow2"), "discard": "unmap"}
        self._add(driver="qcow2", node_name="q", file=file, **common, **detects)
        self._add(driver="null-co", node_name="big", size=BIG, read_zeroes=True)
        for node in _WITH_BITMAPS:
            for name in BITMAPS:
                if draw.often(0.6):
                    self._add_bitmap(node, name)
        source = draw.any("f", "q")
        target = {"driver": "null-co", "size": 1 << 20, "read-zeroes": True}
        if draw.often(0.8):
            session.file("t.raw", SIZE)
            target = {"driver": "file", "filename": path("t.raw"), "discard": "unmap"}
        bitmap = draw.some(0.4, bitmap={"node": source, "name": draw.any(*BITMAPS)})
        if self._add(
            driver="copy-before-write", node_name="c", file=source, target=target, **bitmap
        ):
            self._add(driver="snapshot-access", node_name="s", file="c")
        window = draw.some(0.5, offset=draw.any(512, 64 * KIB, 1000), size=draw.any(512, 99_840))
        self._add(driver="raw", node_name="w", file=draw.any("f", "odd"), **window)

    def _fault(self, *, reads: bool) -> Json:
        """Return a rule by which requests fail."""
        draw = self._draw
        event = draw.any("read_aio", "write_aio", "flush_to_disk", "pwritev", "none")
        types = ["write", "discard", "write-zeroes", "flush"]
        return {
            "event": event,
            "errno": draw.any(1, 5, 12, 28, 30, 75, 95, 108, 13),
            **draw.some(
                0.6 if reads else 1, iotype=draw.any("read" if reads else "write", *types)
            ),
            **draw.some(0.5, sector=draw.any(0, 8, 128)),
            **draw.some(0.2, once=True),
        }

    def _add(self, **options: object) -> bool:
        if self._session.qmp("blockdev-add", **options) is None:
            return False
        self.nodes.append(str(options["node_name"]))
        return True

    def _add_bitmap(self, node: str, name: str) -> None:
        draw = self._draw
        more = draw.some(0.6, granularity=draw.any(512, 4 * KIB, 64 * KIB))
        more |= draw.some(0.3, disabled=True)
        self.send("block-dirty-bitmap-add", {"node": node, "name": name} | more)

    def send(self, command: str, arguments: Json) -> bool:
        """Send a command; return whether it has succeeded."""
        message = json.dumps({"execute": command, "arguments": arguments})
        return self._session.raw(message, command=command) is not None

    def change_bitmap(self) -> None:
        """Send a command about a bitmap."""
        draw = self._draw
        place = {"node": draw.any(*_WITH_BITMAPS), "name": draw.any(*BITMAPS)}
        verb = draw.any("add", "remove", "clear", "enable", "disable", "merge")
        if verb == "add":
            self._add_bitmap(place["node"], place["name"])
        elif verb == "merge":
            place = {"node": place["node"], "target": place["name"]}
            self.send("block-dirty-bitmap-merge", place | {"bitmaps": [draw.any(*BITMAPS)]})
        else:
            self.send(f"block-dirty-bitmap-{verb}", place)

    def resize(self) -> None:
        """Make a node larger or smaller."""
        sizes = (0, 512, 1000, 64 * KIB, ODD, SIZE, SIZE, SIZE + 512, 2 * SIZE)
        draw = self._draw
        arguments = {
            "node-name": draw.any("f", "odd", "q", "w", *self.nodes),
            "size": draw.any(*sizes),
        }
        self.send("block_resize", arguments)

    def look(self) -> None:
        """Write down statistics and bitmaps."""
        session = self._session
        for query in ("query-blockstats", "query-named-block-nodes"):
            more = {"query_nodes": True} if query == "query-blockstats" else {}
            session.qmp(query, **more)
        for node in _WITH_BITMAPS:
            for name in BITMAPS:
                session.qmp("x-debug-block-dirty-bitmap-sha256", node=node, name=name)

    def look_at_images(self) -> None:
        """Write down what is left when the daemon has ended."""
        session = self._session
        for name in ("f.raw", "odd.raw", "bad.raw", "t.raw"):
            if (session.dir / name).exists():
                session.content(name)
        session.tool("qemu-img", "check", "-q", "q.qcow2")
        session.tool("qemu-img", "convert", "-O", "raw", "q.qcow2", "q.raw")
        session.content("q.raw")
