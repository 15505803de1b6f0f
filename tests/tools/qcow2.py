"""Random qcow2 images and random use of them, as Hypothesis strategies."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.tools.disk import qemu_img

SECTOR = 512


@dataclass(frozen=True)
class Geometry:
    """What an image is made with.

    Attributes:
        cluster_bits: Log2 of the cluster size.
        size: Bytes of the disk.
        options: The creation options beside the cluster size.
        backing: Bytes of the backing file, None for none.
        data_file: Whether the data lies in a file of its own.
    """

    cluster_bits: int
    size: int
    options: tuple[str, ...]
    backing: int | None
    data_file: bool

    def files(self, folder: Path) -> dict[str, Any]:
        """The node options beside the image file."""
        if not self.data_file:
            return {}
        return {"data_file": {"driver": "file", "filename": str(folder / "data.raw")}}

    def tool_options(self, folder: Path, image: Path) -> str:
        """How QEMU's tools are told to open the image; empty for the plain way."""
        if not self.data_file:
            return ""
        return (
            f"driver=qcow2,file.filename={image},data-file.driver=file,"
            f"data-file.filename={folder / 'data.raw'}"
        )

    def create(self, folder: Path, seed: int = 0) -> tuple[Path, bytearray]:
        """Make the image with qemu-img; returns it and what it reads as."""
        image = folder / "image.qcow2"
        image.unlink(missing_ok=True)
        model = bytearray(self.size)
        options = [f"cluster_size={1 << self.cluster_bits}", *self.options]
        if self.data_file:
            options.append(f"data_file={folder / 'data.raw'}")
        backing: list[object] = []
        if self.backing is not None:
            data = random.Random(seed).randbytes(self.backing)
            (folder / "base.raw").write_bytes(data)
            model[: min(self.size, self.backing)] = data[: self.size]
            backing = ["-b", "base.raw", "-F", "raw"]
        qemu_img(
            "create", "-q", "-f", "qcow2", "-o", ",".join(options), *backing, image, self.size
        )
        return image, model


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Images of all cluster sizes, versions, refcount widths and kinds."""
    cluster_bits = draw(st.integers(9, 21))
    size = SECTOR * draw(st.integers(1, 3000))
    backing = None
    options: list[str] = []
    data_file = False
    if draw(st.integers(0, 6)) == 0:
        options.append("compat=0.10")
    else:
        options.append(f"refcount_bits={1 << draw(st.integers(0, 6))}")
        if cluster_bits >= 14 and draw(st.booleans()):
            options.append("extended_l2=on")
        extra = draw(st.sampled_from(["", "", "lazy", "data", "metadata", "zstd"]))
        data_file = extra == "data"
        if extra == "lazy":
            options.append("lazy_refcounts=on")
        elif extra == "metadata":
            options.append("preallocation=metadata")
        elif extra == "zstd":
            options.append("compression_type=zstd")
    if "preallocation=metadata" not in options and draw(st.booleans()):
        backing = SECTOR * draw(st.integers(1, 4000))
    return Geometry(cluster_bits, size, tuple(options), backing, data_file)


@dataclass(frozen=True)
class Step:
    """One request: its kind, and where in parts of a million of the disk."""

    kind: str
    at: int
    length: int
    seed: int

    def range(self, size: int) -> tuple[int, int]:
        """Offset and length on a disk of ``size`` bytes."""
        offset = self.at * size // 1_000_000
        return offset, min(self.length, size - offset)

    def data(self, length: int) -> bytes:
        """What a write writes."""
        return random.Random(self.seed).randbytes(length)


def steps(kinds: list[str]) -> st.SearchStrategy[list[Step]]:
    """Lists of requests of these kinds."""
    lengths = st.one_of(
        st.sampled_from([512, 4096, 65536]), st.integers(1, 20000), st.integers(1, 400_000)
    )
    step = st.builds(
        Step,
        st.sampled_from(kinds),
        st.integers(0, 999_999),
        lengths,
        st.integers(0, 1 << 30),
    )
    return st.lists(step, min_size=1, max_size=30)
