"""Random qcow2 images, made with QEMU's tools: every option, and every use before it is served."""

import hashlib
import random
from pathlib import Path
from typing import Final

from tests.oracle.random_draws import KIB, Dice, Json
from tests.oracle.session import Session

MIB: Final = 1024 * KIB
_SECTOR: Final = 512
#: Disks have up to so many clusters, and up to so many bytes.
_MOST_CLUSTERS: Final = 200
_MOST_BYTES: Final = 12 * MIB
#: The least that a backup copies.
_COPY: Final = 64 * KIB
#: What compression does not make smaller.
_NOISE: Final = "noise"


class ImageDraws(Dice):
    """Draws images and requests to them.

    Args:
        seed: Decides everything.
        session: Where they are made.
    """

    def __init__(self, seed: int, session: Session) -> None:
        super().__init__(seed)
        self._session = session
        #: Whether clusters are no larger than the blocks of a file system.
        self.small = self.often(0.4)
        #: The byte that the next write writes, so that each is told apart.
        self._byte = 0
        (session.dir / _NOISE).write_bytes(random.Random(seed).randbytes(64 * KIB))

    def layout(self, *, backing: bool) -> dict[str, str]:
        """Return options of qemu-img create, but for those that name files."""
        bits = self.any(10, 11, 12) if self.small else self.any(9, *range(9, 19), 16, 16, 21)
        options = {"cluster_size": str(1 << bits)}
        old = self.often(0.15)
        if old:
            options["compat"] = "0.10"
        elif self.often(0.3):
            options["compat"] = "1.1"
        if not old and self.often(0.4):
            options["refcount_bits"] = str(1 << self.any(0, 1, 2, 3, 4, 5, 6))
        if not old and self.often(0.25):
            options["lazy_refcounts"] = "on"
        if not old and bits >= 14 and self.often(0.35):
            options["extended_l2"] = "on"
        if not old and self.often(0.2):
            options["compression_type"] = "zstd"
        ahead = not self.small and (not backing or "extended_l2" in options)
        if ahead and self.often(0.3):
            options["preallocation"] = self.any("metadata", "metadata", "falloc", "full")
        return options

    def size(self, cluster: int) -> int:
        """Return the size of a disk with such clusters."""
        most = min(max(_MOST_CLUSTERS * cluster, 4 * _COPY), _MOST_BYTES)
        if self.small:  # copies of part of a cluster are zeroes in one program, data in the other
            return self.random.randrange(0, most + 1, _COPY)
        size = self.random.randrange(0, most, _SECTOR)
        return size if self.often(0.6) else size // cluster * cluster

    def create(self, name: str, base: str = "", *, data_file: bool = True) -> Json:
        """Make an image over ``base``, whose format its name ends with; return its options."""
        options: dict[str, str] = self.layout(backing=bool(base))
        if data_file and options.get("compat") != "0.10" and self.often(0.2):
            options["data_file"] = f"{name}.data"
            if not base and self.often(0.5):
                options["data_file_raw"] = "on"
        cluster = int(options["cluster_size"])
        size = self.size(cluster)
        over = ["-b", base, "-F", base.rsplit(".", 1)[1]] if base else []
        words = ",".join(f"{key}={value}" for key, value in options.items())
        self._session.tool(
            "qemu-img", "create", "-q", "-f", "qcow2", "-o", words, *over, name, str(size)
        )
        return {**options, "cluster": cluster, "size": size}

    def base(self, name: str) -> str:
        """Make what may lie below an image; return its name, empty for nothing."""
        if self.often(0.5):
            return ""
        if self.often(0.5):
            size = self.size(64 * KIB)
            self._session.tool("qemu-img", "create", "-q", "-f", "raw", f"{name}.raw", str(size))
            self._fill(f"{name}.raw", "raw", size, 64 * KIB)
            return f"{name}.raw"
        below = self.base(f"{name}b") if self.often(0.5) else ""
        made = self.create(f"{name}.qcow2", below, data_file=False)
        self.use(f"{name}.qcow2", made)
        return f"{name}.qcow2"

    def use(self, name: str, made: Json) -> None:
        """Do to an image what tools do."""
        tool = self._session.tool
        for _ in range(self.random.randint(0, 4)):
            kind = self.any(*["fill"] * 5, "snapshot", "bitmap", "crash", "other")
            match kind:
                case "fill":
                    self._fill(name, "qcow2", made["size"], made["cluster"])
                case "snapshot":
                    tool("qemu-img", "snapshot", "-c", self.any("s0", "s1", "s2"), name)
                case "bitmap":
                    self._bitmap(name)
                case "crash":
                    self._fill(name, "qcow2", made["size"], made["cluster"], "flush", "abort")
                case _:
                    self._other(name, made)

    def _bitmap(self, name: str) -> None:
        more = ["-g", self.any("512", "4k", "64k", "1M")] if self.often(0.5) else []
        more += ["--disable"] if self.often(0.3) else []
        label = self.any("b0", "b1", "b" * 40)
        self._session.tool("qemu-img", "bitmap", "--add", *more, name, label)

    def _other(self, name: str, made: Json) -> None:
        tool = self._session.tool
        match self.any("apply", "delete", "resize", "amend", "amend"):
            case "apply":
                tool("qemu-img", "snapshot", "-a", self.any("s0", "s1"), name)
            case "delete":
                tool("qemu-img", "snapshot", "-d", self.any("s0", "s1"), name)
            case "resize":
                size = self.size(made["cluster"])
                tool("qemu-img", "resize", "-q", "--shrink", name, str(size))
            case _:
                change = self.any(
                    "compat=0.10", "compat=1.1", "lazy_refcounts=on", "lazy_refcounts=off",
                    "refcount_bits=8", "refcount_bits=64", "refcount_bits=1",
                )  # fmt: skip
                # With larger clusters qemu-img 7.2.22 never comes to an end.
                if not change.startswith("refcount_bits") or made["cluster"] <= 64 * KIB:
                    tool("qemu-img", "amend", "-q", "-o", change, name)

    def _fill(self, name: str, kind: str, size: int, cluster: int, *more: str) -> None:
        requests = [self.request(size, cluster, tool=True) for _ in range(self.any(1, 2, 4, 8))]
        words = [word for request in [*requests, *more] if request for word in ("-c", request)]
        shell = " ".join(f"'{word}'" for word in words)
        # Without the file's name, which an abort would be told of with a process id.
        self._session.tool(
            "sh", "-c", f"qemu-io -d unmap -f {kind} {shell} {name} 2>&1 | grep -v TIME; true"
        )

    def request(self, size: int, cluster: int, *, tool: bool = False) -> str:
        """Return a request of qemu-io to a disk, empty if the disk is."""
        offset, length = self.range(size, cluster)
        if not length:
            return ""
        self._byte = self._byte % 255 + 1
        verbs = [*["write"] * 5, "noise", "write -z", "write -z -u", "discard", "discard"]
        verb = self.any(*verbs, *(["write -c", "write -c"] if tool else []))
        if verb == "write -c":
            offset = offset // cluster * cluster
            length = min(cluster * self.any(1, 1, 2, 3), size - offset)
        if verb == "noise":
            return f"write -q -s {_NOISE} {offset} {length}"
        pattern = f" -P {self._byte}" if verb in {"write", "write -c"} else ""
        return f"{verb} -q{pattern} {offset} {length}"

    def range(self, size: int, cluster: int) -> tuple[int, int]:
        """Return offset and length of a part of a disk, often along clusters."""
        unit = self.any(_SECTOR, _SECTOR, max(_SECTOR, cluster // 32), cluster, cluster)
        offset = self.random.randrange(0, max(size, 1), unit)
        length = unit * self.any(1, 1, 2, 3, 5, 8, 32, 40)
        if self.often(0.1):
            length = size
        return offset, min(length, size - offset)


def summary(path: Path) -> str:
    """Return size and content of a file, as runs of sectors: of one byte, or of the noise."""
    data = path.read_bytes()
    noise = (path.parent / _NOISE).read_bytes()
    places = {noise[at : at + _SECTOR]: at // _SECTOR for at in range(0, len(noise), _SECTOR)}
    runs: list[tuple[str, int]] = []
    for at in range(0, len(data), _SECTOR):
        sector = data[at : at + _SECTOR]
        if sector in places:
            label = f"noise{(places[sector] - at // _SECTOR) % len(places)}"
        elif sector.count(sector[0]) == len(sector):
            label = f"{sector[0]:02x}"
        else:
            label = hashlib.sha256(sector).hexdigest()[:6]
        if runs and runs[-1][0] == label:
            runs[-1] = label, runs[-1][1] + 1
        else:
            runs.append((label, 1))
    shown = " ".join(f"{label}*{count}" for label, count in runs)
    if len(shown) > 2000:
        shown = f"{shown[:2000]}... {hashlib.sha256(data).hexdigest()}"
    return f"{len(data)} bytes: {shown}"
