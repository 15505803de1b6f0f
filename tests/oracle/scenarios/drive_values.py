"""Values of a drive's options that are wrong, and texts inside a json: file name."""

from tests.oracle.scenario import system_scenario
from tests.oracle.session import Session


def refused(d: Session, *drives: str) -> None:
    for drive in drives:
        d.start("-drive", f"if=none,{drive}", monitor=False)
        d.exited()


@system_scenario
def drive_with_wrong_options_of_qcow2(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", d.path("disk.qcow2"), "1M")
    options = (
        "overlap-check=x", "overlap-check=", "overlap-check.template=x",
        "overlap-check.active-l1=x", "overlap-check.nope=on",
        "overlap-check=all,overlap-check.template=none", "encrypt.format=x",
        "encrypt.format=luks", "encrypt=x", "cache-clean-interval=-1", "cache-clean-interval=x",
        "cache-clean-interval=1k", "cache-clean-interval=4294967296",
        "cache-clean-interval=99999999999999999999", "cache-size=-1", "cache-size=x",
        "cache-size=16E", "cache-size=8E", "cache-size=99999999999999999999", "lazy-refcounts=x",
    )  # fmt: skip
    refused(d, *(f"format=qcow2,file={d.path('disk.qcow2')},{words}" for words in options))


@system_scenario
def drive_with_wrong_options_of_other_nodes(d: Session) -> None:
    raw = f"format=raw,file={d.file('disk.raw')}"
    refused(
        d, f"{raw},size=x", f"{raw},file.discard=x", f"{raw},file.locking=x",
        "format=raw,file.driver=null-co,file.latency-ns=-1",
        'format=raw,file=json:{"driver":"null-co",,"size":"x"}',
        'format=raw,file=json:{"driver":"null-co",,"size":1.5}',
        'format=raw,file=json:{"driver":"null-co",,"size":"1M"}',
        'file=json:{"driver":5}', "file=json:[]", 'file=json:{"driver":"qcow2",,"file":5}',
    )  # fmt: skip


@system_scenario
def drive_with_texts_in_json(d: Session) -> None:
    name = d.path("disk.qcow2")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", name, "1M")
    image = (
        f'json:{{"driver":"qcow2",,"cache-size":"1M",,"lazy-refcounts":"on",,"cache-clean-interval'
        f'":"5",,"overlap-check":"all",,"file":{{"driver":"file",,"filename":"{name}"}}}}'
    )
    raw = (
        f'json:{{"driver":"raw",,"offset":"64k",,"size":"1.5k",,"file":{{"driver":"file",,'
        f'"filename":"{d.file("disk.raw")}"}}}}'
    )
    null = 'json:{"driver":"null-co",,"size":"1M",,"read-zeroes":"on"}'
    d.start(
        "-drive", f"if=none,id=a,file={image}", "-drive", f"if=none,id=b,file={raw}",
        "-drive", f"if=none,id=c,file={null}", "-drive",
        f"if=none,id=d,readonly=on,format=qcow2,file={name},overlap-check=all,"
        "overlap-check.active-l1=off,encrypt.nope=x,file.locking=off",
    )  # fmt: skip
    d.qmp("query-named-block-nodes", flat=True)


def _names(d: Session) -> None:
    """Show how the file names of nodes say their options."""
    nodes = d.qmp("query-named-block-nodes", flat=True) or []
    d.transcript.entries.pop()
    for node in nodes:
        d.transcript.add(f"# {node['image']['filename']}")


@system_scenario
def texts_of_a_drive_that_is_reopened(d: Session) -> None:
    for name in ("disk.raw", "other.raw"):
        d.file(name)
    drive = "if=none,id=d,file=disk.raw,format=raw,node-name=n,offset=4096,size=65536"
    other = ("-blockdev", "file,node-name=w,filename=other.raw")
    d.start("-drive", drive, *other, "-device", "virtio-blk-pci,drive=w")
    file = {"driver": "file", "filename": "disk.raw"}
    n = {"driver": "raw", "node-name": "n", "offset": 8192, "size": 65536, "file": file}
    w = {"driver": "file", "node-name": "w", "filename": "other.raw", "read-only": True}
    d.qmp("blockdev-reopen", options=[n, w])  # which is refused
    _names(d)
    lines = ("reopen -r", "reopen -o offset=512", "reopen -o size=64k", "reopen -w")
    for _ in range(2):
        for line in lines:
            d.qmp("human-monitor-command", command_line=f'qemu-io n "{line}"')
            _names(d)
        d.qmp("blockdev-reopen", options=[n])
        _names(d)


@system_scenario
def compact_disc_that_is_said_to_be_writable(d: Session) -> None:
    path = d.file("disc.raw")
    disc = f"media=cdrom,format=raw,file={path}"
    refused(d, f"{disc},id=a,read-only=maybe")
    d.start(
        *("-drive", f"if=none,{disc},id=a,read-only=off"),
        *("-drive", f"if=none,{disc},id=b,readonly=off"),
        *("-drive", "if=none,media=cdrom,id=c,read-only=off"),
    )
    d.qmp("query-block")
