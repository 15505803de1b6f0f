"""What random commands say: arguments drawn from few names, so that they meet each other."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

KIB: Final = 1024
SIZE: Final = 256 * KIB
NODES: Final = ("n0", "n1", "n2", "n3", "n4")
BITMAPS: Final = ("b0", "b1")
JOBS: Final = ("j0", "j1")
EXPORTS: Final = ("e0", "e1", "e2")
GROUPS: Final = ("group", "g1")

_DRIVERS: Final = (
    *("file", "file", "file", "raw", "raw", "qcow2", "null-co", "null-aio", "blkdebug"),
    *("copy-before-write", "copy-before-write", "snapshot-access", "throttle"),
)
#: The images of qcow2 nodes, and names for the nodes that hold them.
_HOLDERS: Final = {"q0.qcow2": "p0", "q1.qcow2": "p1", "f0.raw": "p2"}
#: As large as any node: a filter refuses a target that is smaller, a listed deviation.
_TARGET_SIZE: Final = 1 << 30

Json = dict[str, Any]


class Dice:
    """What is random.

    Args:
        seed: Decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def often(self, share: float) -> bool:
        """Return True in this share of all cases."""
        return self.random.random() < share

    def some(self, share: float, **options: Any) -> Json:
        """Return options, or none of them."""
        named = {name.replace("_", "-"): value for name, value in options.items()}
        return named if self.often(share) else {}

    def any(self, *values: Any) -> Any:
        """Return one of the values."""
        return self.random.choice(values)


class Draws(Dice):
    """Draws arguments of commands.

    Args:
        seed: Decides everything.
        path: Makes the path of a file from its name.
    """

    def __init__(self, seed: int, path: Callable[[str], str]) -> None:
        super().__init__(seed)
        self.path = path
        #: The nodes that are there, by their names, with the options that they were added with.
        self.there: dict[str, Json] = {}

    def spoil(self, arguments: Json) -> None:
        """Make a mistake: a member too few or too many, or one of another type.

        The end of a list stays: QEMU 7.2 dies of merging no bitmaps.
        """
        members = [(arguments, name) for name in arguments]
        for value in arguments.values():
            for part in value if isinstance(value, list) else [value]:
                members += [(part, name) for name in part] if isinstance(part, dict) else []
        kind = self.any("missing", "type", "type", "unknown")
        if kind == "unknown" or not members:
            arguments["zzz"] = 1
            return
        place, name = self.any(*members)
        if kind == "type":
            place[name] = self.any(*_others(place[name]))
        else:
            del place[name]

    # -- nodes ------------------------------------------------------------------------------

    def name(self) -> str:
        """Return the name of a node, mostly of one that is there."""
        if self.there and self.often(0.8):
            return str(self.any(*self.there))
        return str(self.any("none", *NODES))

    def node(self, depth: int = 0, *, named: bool = True) -> Json:
        """Return the definition of a node."""
        driver = self.any(*_DRIVERS)
        options: Json = {"driver": driver} | ({"node-name": self._new_name()} if named else {})
        if driver == "file":
            options["filename"] = self.path(self.any("f0.raw", "f1.raw", "none.raw"))
            options |= self.some(0.1, locking=self.any("on", "off", "auto"))
        elif driver == "qcow2":
            options["file"] = self._image()
            options |= self.some(0.2, backing=self.any(None, self.name()))
        elif driver.startswith("null"):
            options |= {"size": SIZE} | self.some(0.3, read_zeroes=True)
        elif driver == "blkdebug":
            # Not a filter: its filename in an answer is another matter.
            options |= {"image": self._plain()} | self._faults()
        else:
            options["file"] = self._child(depth)
        if driver == "raw":
            options |= self._window()
        if driver == "copy-before-write":
            options["target"] = {"driver": "null-co", "size": _TARGET_SIZE}
            options |= self.some(0.2, bitmap=self.bitmap())
            options |= self.some(0.2, on_cbw_error=self.any("break-snapshot", "zzz"))
        if driver == "throttle":
            options["throttle-group"] = self.any(*GROUPS, "none")
        return options | self._common()

    def reopening(self) -> Json:
        """Return the definition of a node that is there, changed: what it may be made to."""
        name = self.name()
        options = dict(self.there.get(name) or self.node()) | {"node-name": name}
        if self.often(0.2):
            return options | self.node()  # mostly of another driver
        is_image = options["driver"] == "qcow2"  # any other file would be taken for its own
        for member, value in list(options.items()):
            if isinstance(value, dict) and "driver" in value:
                other = "none" if is_image else self.name()
                options[member] = value.get("node-name", other)
        if "file" in options and not is_image and self.often(0.3):
            options["file"] = self.any(self.name(), self.name(), None)
        if is_image:
            options |= self.some(0.5, backing=self.any(None, self.name()))
            options |= self.some(0.2, lazy_refcounts=self._flag())
        if options["driver"] == "throttle":
            options |= self.some(0.5, throttle_group=self.any(*GROUPS, "none"))
        # Not another window: QEMU leaves the bitmaps of a raw node as large as they were.
        if self.often(0.2):
            options.pop(self.any(*options))
        return options | self._common()

    def reopenings(self) -> Json:
        """Return the arguments of blockdev-reopen, with no node twice."""
        drawn = [self.reopening() for _ in range(self.any(1, 1, 1, 2, 3))]
        return {"options": list({one.get("node-name"): one for one in drawn}.values())}

    def _new_name(self) -> str:
        missing = [name for name in NODES if name not in self.there]
        return str(self.any(*missing if missing and self.often(0.8) else NODES))

    def _child(self, depth: int) -> str | Json:
        if depth or self.often(0.6):
            return self.name()
        return self.node(depth + 1, named=self.often(0.2))

    def _image(self) -> Json:
        name = self.any(*_HOLDERS)
        named = self.some(0.5, node_name=_HOLDERS[name])
        return {"driver": "file", "filename": self.path(name)} | named

    def _plain(self) -> str | Json:
        """Return what has no child."""
        plain = [name for name, one in self.there.items() if one.get("driver") == "file"]
        if plain and self.often(0.5):
            return str(self.any(*plain))
        return self._image() if self.often(0.5) else {"driver": "null-co", "size": SIZE}

    def _faults(self) -> Json:
        """Return rules and limits; who fails once is known, as there is one request at a time."""
        event = self.any("read_aio", "write_aio", "flush_to_os", "pwritev", "none")
        rule = {
            "event": event,
            **self.some(0.5, errno=self.any(5, 28, 1)),
            **self.some(0.5, once=True),
            **self.some(0.3, iotype=self.any("read", "write", "discard", "write-zeroes")),
            **self.some(0.2, sector=self.any(0, 8, 128)),
            **self.some(0.1, immediately=True),
        }
        return {
            **self.some(0.4, inject_error=[rule]),
            **self.some(0.4, align=self.any(512, 1000, 4 * KIB, 64 * KIB)),
            **self.some(0.2, max_transfer=self.any(4 * KIB, 64 * KIB, 1000)),
            **self.some(0.2, max_write_zero=self.any(4 * KIB, 64 * KIB)),
            **self.some(0.2, max_discard=self.any(4 * KIB, 64 * KIB)),
            **self.some(0.2, opt_discard=self.any(4 * KIB, 64 * KIB)),
            **self.some(0.1, take_child_perms=[self.any("write", "resize", "consistent-read")]),
            **self.some(0.1, unshare_child_perms=[self.any("write", "resize")]),
        }

    def _window(self) -> Json:
        return {
            **self.some(0.25, offset=self.any(0, 512, 1000, 64 * KIB, SIZE, -1)),
            **self.some(0.25, size=self.any(0, 512, 1000, 64 * KIB, 128 * KIB, SIZE)),
        }

    def _common(self) -> Json:
        return {
            **self.some(0.15, read_only=self._flag()),
            **self.some(0.1, auto_read_only=self.often(0.7)),
            **self.some(0.1, discard=self.any("unmap", "ignore")),
            **self.some(0.1, detect_zeroes=self.any("on", "off", "unmap")),
            **self.some(0.08, cache={self.any("no-flush", "direct"): self.often(0.3)}),
            **self.some(0.05, force_share=True),
            **self.some(0.02, zzz=1),
        }

    def _flag(self) -> bool:
        return self.often(0.5)

    # -- bitmaps, jobs, exports -------------------------------------------------------------

    def bitmap(self) -> Json:
        """Return a bitmap's node and name."""
        return {"node": self.name(), "name": self.any(*BITMAPS)}

    def source(self) -> str | Json:
        """Return a bitmap as exports and merging take it."""
        return self.any(*BITMAPS) if self.often(0.5) else self.bitmap()

    def new_bitmap(self) -> Json:
        """Return the arguments of block-dirty-bitmap-add."""
        return {
            **self.bitmap(),
            **self.some(0.3, granularity=self.any(256, 512, 1000, 4 * KIB, 64 * KIB)),
            **self.some(0.2, persistent=self.often(0.7)),
            **self.some(0.2, disabled=True),
        }

    def merge(self) -> Json:
        """Return the arguments of block-dirty-bitmap-merge."""
        bitmaps = [self.source() for _ in range(self.random.randint(1, 3))]
        return {"node": self.name(), "target": self.any(*BITMAPS), "bitmaps": bitmaps}

    def backup(self) -> Json:
        """Return the arguments of blockdev-backup."""
        sync = self.any("full", "full", "full", "top", "incremental", "bitmap", "none")
        device = self.name()
        has_bitmap = sync in {"incremental", "bitmap"}
        policies = ("report", "ignore", "stop", "enospc")
        return {
            "device": device,
            "target": self.any("target", "target", "target", "none", device),
            "sync": sync,
            **self.some(0.95, job_id=self.any(*JOBS)),
            **self.some(0.9 if has_bitmap else 0.1, bitmap=self.any(*BITMAPS)),
            **self.some(
                0.9 if sync == "bitmap" else 0.1,
                bitmap_mode=self.any("on-success", "never", "always"),
            ),
            **self.some(0.3, auto_dismiss=False),
            **self.some(0.2, auto_finalize=False),
            **self.some(0.1, compress=True),
            **self.some(0.1, speed=self.any(0, 1 << 40, -1)),
            **self.some(0.2, on_source_error=self.any(*policies)),
            **self.some(0.2, on_target_error=self.any(*policies)),
            **self.some(0.1, filter_node_name=self.any("filter", *NODES)),
            "x-perf": {"max-workers": 1},
        }

    def export(self) -> Json:
        """Return the arguments of block-export-add."""
        sources = [self.source() for _ in range(self.any(0, 1, 1, 1, 2, 3))]
        return {
            "type": "nbd",
            "id": self.any(*EXPORTS),
            "node-name": self.name(),
            **self.some(0.5, writable=self.often(0.7)),
            **self.some(0.3, name=self.any("x", "y")),
            **self.some(0.3, bitmaps=sources),
            **self.some(0.1, allocation_depth=True),
            **self.some(0.1, description="words"),
            **self.some(0.1, writethrough=self._flag()),
            **self.some(0.03, iothread="none"),
        }

    def server_export(self) -> Json:
        """Return the arguments of nbd-server-add; the export's id will be its name."""
        return {
            "device": self.name(),
            **self.some(0.8, name=self.any(*EXPORTS)),
            **self.some(0.5, writable=self._flag()),
            **self.some(0.3, bitmap=self.any(*BITMAPS)),
            **self.some(0.1, description="words"),
        }

    # -- throttle groups --------------------------------------------------------------------

    def limits(self) -> Json:
        """Return limits that nobody comes near to, or that are refused."""
        names = [f"{kind}-{who}" for kind in ("iops", "bps") for who in ("total", "read", "write")]
        limits: Json = {
            name: self.any(0, 1 << 40, 1 << 40, -1) for name in names if self.often(0.2)
        }
        for name in names:
            limits |= {f"{name}-max": self.any(1 << 39, 1 << 41)} if self.often(0.05) else {}
            limits |= {f"{name}-max-length": self.any(0, 1, 3)} if self.often(0.03) else {}
        return limits | self.some(0.1, iops_size=self.any(512, 4 * KIB, -1))

    def group(self) -> Json:
        """Return the arguments of object-add for a throttle group."""
        single = {f"x-{name}": value for name, value in self.limits().items()}
        return {
            "qom-type": "throttle-group",
            "id": self.any(*GROUPS, "group"),
            **self.some(0.6, limits=self.limits()),
            **(single if self.often(0.3) else {}),
        }


def _others(value: Any) -> Sequence[Any]:
    """Return values of other types, none of them empty."""
    kinds: dict[type, Any] = {
        str: "zzz",
        int: 7,
        bool: True,
        dict: {"a": 1},
        list: [1],
        float: 1.5,
    }
    return [None, *(other for kind, other in kinds.items() if not isinstance(value, kind))]
