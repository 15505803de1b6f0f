"""blockdev-create of qcow2: every option, what is refused, what queries show afterwards."""

from typing import Any, Final

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.jobs import create
from tests.oracle.session import Session

MIB: Final = 1 << 20


def make(d: Session, size: Any = 16 * MIB, **options: Any) -> None:
    """Make an image in the node ``f``; show the job's error, open the image, show it."""
    create(d, driver="qcow2", file="f", size=size, **options)
    d.qmp("query-jobs")
    d.qmp("job-dismiss", id="c")


def shown(d: Session, **options: Any) -> None:
    """Open what is in ``f`` and show what is known about it."""
    if d.qmp("blockdev-add", driver="qcow2", node_name="q", file="f", **options) is None:
        return
    for info in d.qmp("query-named-block-nodes", flat=True) or []:
        if info["node-name"] == "q":
            image = {key: info["image"].get(key) for key in ("virtual-size", "cluster-size")}
            d.transcript.add(f"# {image} {info['image']['format-specific']}")
    d.transcript.entries.pop(-2)
    d.qmp("blockdev-del", node_name="q")


def files(d: Session) -> None:
    """Add nodes with empty files, in place of those that there are."""
    for name in ("f", "data"):
        d.qmp("blockdev-del", node_name=name)
        d.qmp("blockdev-add", driver="file", node_name=name, filename=d.file(f"{name}.raw", 0))


_GIVEN: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"version": "v2"},
    {"version": "v3", "lazy-refcounts": True},
    {"extended-l2": True},
    {"extended-l2": True, "preallocation": "metadata"},
    {"compression-type": "zstd"},
    {"compression-type": "zlib", "version": "v2"},
    {"cluster-size": 512},
    {"cluster-size": 2 * MIB},
    {"refcount-bits": 1},
    {"refcount-bits": 64},
    {"preallocation": "metadata"},
    {"preallocation": "falloc", "cluster-size": 4096},
    {"preallocation": "full", "cluster-size": 65536},
    {"backing-file": "base", "backing-fmt": "raw"},
    {"backing-file": "base"},
    {"size": 0},
    {"size": 512},
    {"size": 1 << 50},
    {"size": 1 << 50, "cluster-size": 2 * MIB},
)
_REFUSED: Final[tuple[dict[str, Any], ...]] = (
    {"size": 511},
    {"size": -1},
    {"size": (1 << 63) - 512},
    {"cluster-size": 256},
    {"cluster-size": 768},
    {"cluster-size": 4 * MIB},
    {"cluster-size": 0},
    {"refcount-bits": 0},
    {"refcount-bits": 3},
    {"refcount-bits": 128},
    {"refcount-bits": -1},
    {"refcount-bits": 8, "version": "v2"},
    {"lazy-refcounts": True, "version": "v2"},
    {"extended-l2": True, "version": "v2"},
    {"extended-l2": True, "cluster-size": 8192},
    {"compression-type": "zstd", "version": "v2"},
    {"compression-type": "lzo"},
    {"version": "v4"},
    {"preallocation": "some"},
    {"preallocation": "metadata", "backing-file": "base", "backing-fmt": "raw"},
    {"backing-fmt": "raw"},
    {"backing-file": "b" * 1024, "backing-fmt": "raw"},
    {"backing-file": "base", "backing-fmt": "zzz"},
    {"data-file-raw": True},
    {"data-file": "data", "version": "v2"},
    {"data-file": "data", "data-file-raw": True, "backing-file": "base", "backing-fmt": "raw"},
    {"data-file": "nowhere"},
    {"data-file": "f"},
    {"encrypt": {"format": "aes"}},
    {"encrypt": {"format": "zzz"}},
    {"encrypt": {}},
    {"zzz": 1},
    {"size": 1 << 50, "cluster-size": 512},
)


@scenario
def qcow2_created_with_each_option(d: Session) -> None:
    for options in _GIVEN:
        files(d)
        make(d, **options)
        shown(d, backing=None)
        d.tool("sh", "-c", "qemu-img check -U f.raw 2>&1 | head -1")


@scenario
def qcow2_created_with_subclusters_allocated_ahead(d: Session) -> None:
    files(d)
    d.file("base", MIB, (7, 0, MIB))
    over = {"backing-file": d.path("base"), "backing-fmt": "raw"}
    for ahead in ("metadata", "falloc", "full"):
        for options in ({}, over):
            make(d, MIB, preallocation=ahead, extended_l2=True, **options)
            d.tool("sh", "-c", "qemu-img map -U --output=json f.raw | sed 's/, .offset.*//'")
            d.tool("qemu-img", "convert", "-U", "-O", "raw", "f.raw", "out.raw")
            d.content("out.raw")


@scenario
def qcow2_created_with_a_data_file(d: Session) -> None:
    files(d)
    for options in ({}, {"data-file-raw": True}, {"preallocation": "full"}, {"extended-l2": True}):
        make(d, data_file="data", **options)
        shown(d, data_file="data")
        shown(d)
        d.tool("sh", "-c", "qemu-img info -U f.raw 2>&1 | grep 'data file'")


@scenario
def qcow2_not_created(d: Session) -> None:
    files(d)
    for options in _REFUSED:
        make(d, **options)
    create(d, driver="qcow2", size=MIB)
    create(d, driver="qcow2", file="nowhere", size=MIB)
    d.qmp("job-dismiss", id="c")
    create(d, driver="qcow2", file="f")


@scenario
def qcow2_not_encrypted(d: Session) -> None:
    files(d)
    make(d, encrypt={"format": "luks", "key-secret": "s"})
    make(d, encrypt={"format": "qcow", "key-secret": "s"})


@scenario
def qcow2_names_of_backing_files_are_measured_in_bytes(d: Session) -> None:
    names = ("\xe9" * 511 + "e", "\xe9" * 512, "e" * 1021 + "\0", "e" * 1022 + "\0")
    files(d)
    for name in names:
        make(d, backing_file=name, backing_fmt="raw")
    files(d)
    make(d)
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file="f")
    for name in names:
        d.qmp("change-backing-file", device="q", image_node_name="q", backing_file=name)
