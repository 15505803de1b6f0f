"""reopen of qemu-io, through the human monitor."""

from tests.oracle.scenario import system_scenario
from tests.oracle.session import Session


def io(d: Session, name: str, line: str) -> None:
    d.qmp("human-monitor-command", command_line=f'qemu-io {name} "{line}"')


def modes(d: Session) -> None:
    """Show what of the nodes can change."""
    nodes = d.qmp("query-named-block-nodes", flat=True) or []
    d.transcript.entries.pop()
    for node in nodes:
        if not node["node-name"].startswith("#"):
            ro, zeroes = node["ro"], node["detect_zeroes"]
            d.transcript.add(f"# {node['node-name']}: {ro} {zeroes} {node['cache']}")


@system_scenario
def qemu_io_reopens_a_file(d: Session) -> None:
    name = d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="n", filename=name)
    for line in (
        "reopen",
        "reopen -r",
        "write 0 512",
        "reopen -w",
        "reopen -r -w",
        "reopen -c none",
        "reopen -c bad",
        "reopen -c writethrough",
        "reopen -c unsafe",
        "reopen -o read-only=on",
        "reopen -o read-only=off,cache.direct=on",
        "reopen -c none -o cache.direct=off",
        "reopen -r -o read-only=off",
        "reopen -o detect-zeroes=on",
        "reopen -o colour=red",
        "reopen -o filename=b",
        "reopen x",
    ):
        io(d, "n", line)
        modes(d)


@system_scenario
def qemu_io_reopens_what_an_image_opened(d: Session) -> None:
    name = d.path("disk.qcow2")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", name, "1M")
    file = {"driver": "file", "node-name": "f", "filename": name}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    for line in (
        "reopen -o lazy-refcounts=on",
        "reopen -r",
        "reopen -w -c none",
        "reopen -o overlap-check=all",
        "reopen -o l2-cache-size=1048576",
    ):
        io(d, "q", line)
        modes(d)


@system_scenario
def qemu_io_reopens_a_drive(d: Session) -> None:
    name = d.file("disk.raw")
    file = f"file.driver=file,file.node-name=f,file.filename={name}"
    drive = f"if=none,id=d0,format=raw,node-name=r,{file}"
    d.start("-drive", drive)
    for line in ("write -q 0 512", "reopen -r", "write 0 512", "reopen -w", "write -q 0 512"):
        io(d, "d0", line)
        modes(d)


def _children(d: Session) -> None:
    """Show what the named nodes lead to."""
    nodes = d.qmp("query-named-block-nodes", flat=True) or []
    d.transcript.entries.pop()
    for node in nodes:
        if not node["node-name"].startswith("#"):
            d.transcript.add(f"# {node['node-name']}: {node['file']} {node.get('backing_file')}")


@system_scenario
def qemu_io_replaces_children(d: Session) -> None:
    for name, size in (("f", 1 << 20), ("g", 1 << 20), ("s", 512)):
        d.qmp("blockdev-add", driver="file", node_name=name, filename=d.file(name, size))
    for name in ("n", "m"):
        d.qmp("blockdev-add", driver="null-co", node_name=name, size=1 << 20)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f")
    d.qmp("blockdev-add", driver="raw", node_name="above", file="r")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "image", "1M")
    file = {"driver": "file", "filename": d.path("image")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file, backing="n")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "target", "1M")
    target = {"driver": "qcow2", "file": {"driver": "file", "filename": d.path("target")}}
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="q", target=target)
    for name in ("r", "q", "c", "n", "f"):
        for options in (
            "file=s", "file=g", "file=g", "file=r", "file=above", "file=nope", "file=",
            "file=f,read-only=on", "file=g,file.driver=file", "backing=m", "backing=g",
            "backing=n", "backing=nope", "backing=", "backing=q", "target=n", "read-only=off",
        ):  # fmt: skip
            if name == "q" and options.startswith("file=g"):
                continue  # QEMU does not survive the end of an image in a disk that is none
            io(d, name, f"reopen -o {options}")
            _children(d)
        io(d, name, "length")


@system_scenario
def qemu_io_reopens_the_disk_of_a_device(d: Session) -> None:
    """The device does without the permission to write from then on, come what may."""
    name = d.file("disk.raw")
    d.start(
        *("-blockdev", f"file,node-name=f,filename={name}", "-device", "virtio-scsi"),
        *("-device", "scsi-hd,id=sda,drive=f"),
    )
    for line in ("reopen -r -o nonsense=1", "reopen -r", "reopen -w", "write -q 0 512"):
        io(d, "-d sda", line)
        modes(d)
        d.qmp("x-debug-query-block-graph")
