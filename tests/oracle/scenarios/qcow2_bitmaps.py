"""Persistent bitmaps of qcow2 images: added, removed, switched, merged, resized, out of date."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.session import Session

MIB = 1 << 20


def image(d: Session, *options: str, size: str = "16M", name: str = "a.qcow2") -> None:
    """Make an image with qemu-img."""
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", *options, name, size)


def opened(d: Session, name: str = "a", **options: Any) -> None:
    """Open an image as a node of its name."""
    file = {"driver": "file", "filename": d.path(f"{name}.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name=name, file=file, **options)


def close(d: Session, name: str = "a") -> None:
    d.qmp("blockdev-del", node_name=name)


def stored(d: Session, name: str = "a.qcow2") -> None:
    """Write down what the file says about its bitmaps now."""
    command = f"qemu-img info -U {name} 2>&1 | grep -A99 -e 'bitmaps:' -e error || echo none"
    d.tool("sh", "-c", command)


def check(d: Session, name: str = "a.qcow2") -> None:
    d.tool("sh", "-c", f"qemu-img check {name} 2>&1 | grep -v -e allocated -e 'end offset'")


def add(d: Session, name: str = "b", node: str = "a", **more: Any) -> None:
    d.qmp("block-dirty-bitmap-add", node=node, name=name, persistent=True, **more)


def seen(d: Session, *names: str, node: str = "a") -> None:
    """Show the bitmaps of a node; what the file occupies is not for comparison."""
    nodes = d.qmp("query-named-block-nodes", flat=True) or []
    d.transcript.entries.pop()
    for info in nodes:
        if info["node-name"] == node:
            d.transcript.add(f"# {info['image']['format-specific']}")
            for bitmap in info.get("dirty-bitmaps", []):
                d.transcript.add(f"# {bitmap}")
    for name in names:
        d.qmp("x-debug-block-dirty-bitmap-sha256", node=node, name=name)


def guest(d: Session, *commands: str, node: str = "a") -> None:
    """Write as a guest does."""
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name=node, name="g", writable=True)
    d.io("g", *commands)
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("nbd-server-stop")


@scenario
def qcow2_bitmap_is_added_and_kept(d: Session) -> None:
    image(d)
    opened(d)
    add(d)
    add(d, "off", disabled=True, granularity=512)
    stored(d)
    guest(d, "write 1M 100k")
    seen(d, "b", "off")
    close(d)
    stored(d)
    check(d)
    opened(d)
    seen(d, "b", "off")
    stored(d)
    close(d)
    stored(d)


@scenario
def qcow2_bitmap_is_removed_at_once(d: Session) -> None:
    image(d)
    for name in ("b", "c", "x"):
        d.tool("qemu-img", "bitmap", "--add", "a.qcow2", name)
    opened(d)
    add(d, "new")
    stored(d)
    d.qmp("block-dirty-bitmap-remove", node="a", name="b")
    stored(d)
    d.qmp("block-dirty-bitmap-remove", node="a", name="new")
    stored(d)
    d.qmp("block-dirty-bitmap-remove", node="a", name="c")
    d.qmp("block-dirty-bitmap-remove", node="a", name="x")
    stored(d)
    seen(d)
    close(d)
    stored(d)
    check(d)


@scenario
def qcow2_bitmap_is_removed_by_a_transaction(d: Session) -> None:
    image(d)
    for name in ("b", "c"):
        d.tool("qemu-img", "bitmap", "--add", "a.qcow2", name)
    opened(d)
    remove = [
        {"type": "block-dirty-bitmap-remove", "data": {"node": "a", "name": name}}
        for name in ("b", "c", "zzz")
    ]
    d.qmp("transaction", actions=remove)
    stored(d)
    seen(d)
    again = {"type": "block-dirty-bitmap-add", "data": {"node": "a", "name": "b"}}
    d.qmp("transaction", actions=[remove[0], again])
    stored(d)
    d.qmp("transaction", actions=remove[:2])
    stored(d)
    seen(d)
    close(d)
    check(d)


@scenario
def qcow2_bitmap_is_removed_and_added_again(d: Session) -> None:
    image(d)
    d.tool("qemu-img", "bitmap", "--add", "-g", "128k", "a.qcow2", "b")
    opened(d)
    add(d)
    d.qmp("block-dirty-bitmap-remove", node="a", name="b")
    d.qmp("block-dirty-bitmap-add", node="a", name="b")
    stored(d)
    close(d)
    stored(d)
    opened(d)
    seen(d)
    d.qmp("block-dirty-bitmap-add", node="a", name="b", granularity=4096)
    add(d)
    d.qmp("block-dirty-bitmap-remove", node="a", name="b")
    add(d, granularity=8192)
    close(d)
    stored(d)
    check(d)


@scenario
def qcow2_bitmap_that_cannot_be_stored(d: Session) -> None:
    image(d)
    opened(d)
    for granularity in (0, 256, 768, 512, 1 << 31, 1 << 30):
        add(d, f"g{granularity}", granularity=granularity)
    add(d, "")
    add(d, "n" * 1023)
    add(d, "n" * 1024)
    add(d, "\u00e4" * 512)
    add(d, "\u00e4" * 511)
    add(d, "g512")
    close(d)
    stored(d)
    opened(d)
    seen(d)


@scenario
def qcow2_bitmap_is_too_large(d: Session) -> None:
    image(d, size="8T")
    opened(d)
    for bits in (9, 10, 16):
        add(d, f"b{bits}", granularity=1 << bits)
    close(d)
    stored(d)


@scenario
def qcow2_bitmap_on_version_2(d: Session) -> None:
    image(d, "-o", "compat=0.10")
    opened(d)
    add(d)
    d.qmp("block-dirty-bitmap-add", node="a", name="b")
    d.qmp("block-dirty-bitmap-remove", node="a", name="b")
    close(d)


@scenario
def qcow2_bitmap_of_a_read_only_image(d: Session) -> None:
    image(d)
    d.tool("qemu-img", "bitmap", "--add", "a.qcow2", "b")
    opened(d, read_only=True)
    seen(d, "b")
    stored(d)
    add(d, "new")
    d.qmp("block-dirty-bitmap-add", node="a", name="memory")
    for verb in ("clear", "disable", "enable", "remove"):
        d.qmp(f"block-dirty-bitmap-{verb}", node="a", name="b")
    d.qmp("block-dirty-bitmap-merge", node="a", target="b", bitmaps=["memory"])
    d.qmp("block-dirty-bitmap-merge", node="a", target="memory", bitmaps=["b"])
    seen(d)
    close(d)
    stored(d)


@scenario
def qcow2_bitmap_without_auto(d: Session) -> None:
    image(d)
    d.tool("qemu-img", "bitmap", "--add", "a.qcow2", "b")
    opened(d)
    d.qmp("block-dirty-bitmap-disable", node="a", name="b")
    guest(d, "write 0 64k")
    close(d)
    stored(d)
    opened(d)
    seen(d, "b")
    d.qmp("block-dirty-bitmap-enable", node="a", name="b")
    guest(d, "write 1M 64k")
    close(d)
    stored(d)
    opened(d)
    seen(d, "b")
    d.qmp("block-dirty-bitmap-clear", node="a", name="b")
    close(d)
    opened(d)
    seen(d, "b")


@scenario
def qcow2_bitmaps_are_merged(d: Session) -> None:
    image(d)
    opened(d)
    add(d)
    guest(d, "write 1M 100k")
    d.qmp("block-dirty-bitmap-add", node="a", name="memory", granularity=4096)
    guest(d, "write 3M 4k")
    add(d, "all", disabled=True)
    d.qmp("block-dirty-bitmap-merge", node="a", target="all", bitmaps=["b", "memory"])
    seen(d, "b", "memory", "all")
    close(d)
    opened(d)
    seen(d, "b", "all")


def spoil(d: Session, offset: int, data: bytes, name: str = "a.qcow2") -> None:
    """Write into an image file."""
    with (d.dir / name).open("r+b") as file:
        file.seek(offset)
        file.write(data)
    d.transcript.add(f"# {data.hex()} at {offset} of {name}")


@scenario
def qcow2_bitmaps_are_out_of_date(d: Session) -> None:
    image(d)
    for name in ("b", "c"):
        d.tool("qemu-img", "bitmap", "--add", "a.qcow2", name)
    spoil(d, 95, b"\0")
    stored(d)
    opened(d, read_only=True)
    seen(d)
    close(d)
    opened(d)
    seen(d)
    add(d)
    close(d)
    stored(d)
    check(d)


def directory(d: Session) -> int:
    """Return where the directory of bitmaps lies."""
    data = (d.dir / "a.qcow2").read_bytes()
    at = data.index(bytes.fromhex("23852875"))
    return int.from_bytes(data[at + 24 : at + 32], "big")


@scenario
def qcow2_bitmap_is_inconsistent(d: Session) -> None:
    image(d)
    for name in ("b", "c"):
        d.tool("qemu-img", "bitmap", "--add", "a.qcow2", name)
    spoil(d, directory(d) + 15, b"\3")
    stored(d)
    opened(d)
    seen(d, "b", "c")
    for verb in ("clear", "disable", "enable"):
        d.qmp(f"block-dirty-bitmap-{verb}", node="a", name="b")
    d.qmp("block-dirty-bitmap-merge", node="a", target="c", bitmaps=["b"])
    d.qmp("block-dirty-bitmap-merge", node="a", target="b", bitmaps=["c"])
    add(d)
    close(d)
    stored(d)
    opened(d)
    d.qmp("block-dirty-bitmap-remove", node="a", name="b")
    stored(d)
    add(d)
    close(d)
    stored(d)
    check(d)


@scenario
def qcow2_disk_with_bitmaps_is_resized(d: Session) -> None:
    image(d)
    d.tool("qemu-img", "bitmap", "--add", "a.qcow2", "b")
    opened(d)
    add(d, "new")
    guest(d, "write 15M 1M")
    for size in (32 * MIB, 8 * MIB, 12 * MIB):
        d.qmp("block_resize", node_name="a", size=size)
        seen(d, "b", "new")
        stored(d)
    close(d)
    stored(d)
    opened(d)
    seen(d, "b", "new")
    close(d)
    check(d)


@scenario
def qcow2_disk_with_inconsistent_bitmap_is_resized(d: Session) -> None:
    image(d)
    for name in ("b", "c"):
        d.tool("qemu-img", "bitmap", "--add", "a.qcow2", name)
    spoil(d, directory(d) + 15, b"\3")
    opened(d)
    d.qmp("block_resize", node_name="a", size=32 * MIB)
    d.qmp("block_resize", node_name="a", size=8 * MIB)
    seen(d)
    d.qmp("block-dirty-bitmap-remove", node="a", name="b")
    d.qmp("block_resize", node_name="a", size=32 * MIB)
    seen(d)
    close(d)
    check(d)


@scenario
def qcow2_bitmap_is_in_use_by_a_job(d: Session) -> None:
    image(d)
    image(d, name="t.qcow2")
    opened(d)
    opened(d, "t")
    add(d)
    guest(d, "write 0 1M")
    job = {"job_id": "j", "device": "a", "target": "t", "sync": "incremental", "bitmap": "b"}
    d.qmp("blockdev-backup", auto_finalize=False, **job)
    d.event("BLOCK_JOB_PENDING")
    d.qmp("block-dirty-bitmap-remove", node="a", name="b")
    d.qmp("block-dirty-bitmap-disable", node="a", name="b")
    d.qmp("block_resize", node_name="a", size=32 * MIB)
    d.qmp("job-finalize", id="j")
    d.event('"null"')
    close(d)
    stored(d)
    opened(d)
    seen(d, "b")


@scenario
def qcow2_many_bitmaps(d: Session) -> None:
    image(d)
    opened(d)
    for number in range(40):
        add(d, f"{number:x}" * (number + 1) * 8)
    close(d)
    stored(d)
    opened(d)
    for number in range(0, 40, 3):
        d.qmp("block-dirty-bitmap-remove", node="a", name=f"{number:x}" * (number + 1) * 8)
    close(d)
    stored(d)
    check(d)


@scenario
def qcow2_bitmap_cannot_be_removed_from_the_file(d: Session) -> None:
    image(d)
    for name in ("b", "c"):
        d.tool("qemu-img", "bitmap", "--add", "a.qcow2", name)
    memory = d.memory_file(1 << 20)
    with open(memory, "r+b") as file:
        file.write((d.dir / "a.qcow2").read_bytes())
    file = {"driver": "file", "filename": memory, "locking": "off"}
    d.qmp("blockdev-add", driver="qcow2", node_name="a", file=file)
    add(d, "new")
    d.seal()
    d.qmp("block-dirty-bitmap-remove", node="a", name="b")
    seen(d)
    d.qmp("block-dirty-bitmap-remove", node="a", name="new")
    remove = [
        {"type": "block-dirty-bitmap-remove", "data": {"node": "a", "name": name}}
        for name in ("b", "c")
    ]
    d.qmp("transaction", actions=remove)
    seen(d)
    close(d)
