"""Disks that the machine makes itself, and drives in their places."""

from tests.oracle.scenario import long, system_scenario
from tests.oracle.session import Session

_ASK = (
    b'{"execute": "qmp_capabilities"}{"execute": "query-block"}'
    b'{"execute": "human-monitor-command", "arguments": {"command-line": "info block"}}'
    b'{"execute": "quit"}'
)


def images(d: Session) -> None:
    for name in ("d.raw", "e.raw", "f.raw"):
        d.file(name, 1 << 20)


def ask(d: Session, *words: str) -> None:
    """Start with these options alone, and show the disks."""
    d.transcript.generated.clear()
    d.run_with_input(_ASK, "-display", "none", "-S", *words, "-qmp", "stdio")
    # Before it fails QEMU has greeted; and see transcript.py on how Debian's 7.2 ends.
    d.transcript.entries[:] = [
        entry
        for entry in d.transcript.entries
        if '{"QMP"' not in entry.text and '"SHUTDOWN"' not in entry.text
    ]


def ask_drives(d: Session, *drives: str) -> None:
    """Start once with each drive."""
    images(d)
    for drive in drives:
        ask(d, "-nodefaults", *(word for one in drive.split() for word in ("-drive", one)))


@system_scenario
def disks_of_the_board(d: Session) -> None:
    images(d)
    for words in (
        "",
        "-nodefaults",
        "-M q35",
        "-M none",
        "-hda d.raw",
        "-hda d.raw -hdb e.raw -hdd f.raw",
        "-nodefaults -hdb d.raw",
        "-nodefaults -cdrom d.raw",
        "-cdrom d.raw",
        "d.raw",
        "-fda d.raw",
        "-nodefaults -fda d.raw -fdb e.raw",
        "-M q35 -hda d.raw -hdb e.raw",
        "-M q35 -nodefaults -fda d.raw",
        "-vga none -nic none",
        "-net none -serial null -serial null -parallel none",
        "-nodefaults -hda d.raw -snapshot",
        "-smp 2",
        "-nodefaults -device ide-cd -device floppy",
        "-device ide-cd",
    ):
        ask(d, *words.split())


@system_scenario
def disks_plugged_into_the_board(d: Session) -> None:
    images(d)
    d.tool("qemu-img", "create", "-q", "-f", "raw", "ro.raw", "1M")
    x = "-drive if=none,id=x,format=raw,file=d.raw"
    for words in (
        f"{x} -device ide-hd,drive=x",
        f"{x} -device ide-hd,drive=x,bus=ide.0,unit=1,id=hd,serial=abc",
        f"{x},readonly=on -device ide-hd,drive=x",
        f"{x},readonly=on -device ide-cd,drive=x",
        f"{x},readonly=on -device floppy,drive=x",
        f"{x} -device floppy,drive=x,id=f",
        "-drive if=none,id=x -device ide-hd,drive=x",
        "-drive if=none,id=x -device ide-cd,drive=x",
        "-device ide-hd",
        "-device ide-hd,unit=5",
        "-device ide-cd,unit=2",
        "-device ide-cd -device ide-cd -device ide-cd",
        "-device ide-cd,unit=1 -device ide-cd,unit=1",
        "-device ide-cd,bus=ide.1",
        "-device ide-cd,bus=ide.2",
        "-device ide-cd,serial=1,foo=1",
        "-device floppy -device floppy -device floppy",
        "-device floppy,unit=0 -device floppy,unit=0",
        "-device floppy,unit=3",
        "-device floppy,drive-type=foo",
        "-device floppy,serial=1",
        "-fda d.raw -device floppy",
        "-hda d.raw -device ide-cd,bus=ide.0,unit=0",
        "-hda d.raw -hdb e.raw -device ide-cd",
        "-M q35 -device ide-cd -device ide-cd",
        "-M q35 -device ide-cd,unit=1",
        "-M q35 -device floppy",
        "-M q35 -device virtio-scsi -device scsi-cd",
    ):
        ask(d, "-nodefaults", *words.split())


@system_scenario
def drives_of_all_kinds(d: Session) -> None:
    ask_drives(
        d,
        *(
            drive
            for kind in ("ide", "scsi", "floppy", "mtd", "sd", "virtio", "xen", "none")
            for drive in (
                f"if={kind},format=raw,file=d.raw",
                f"if={kind}",
                f"if={kind},media=cdrom,id=m",
                f"if={kind},media=cdrom,file=d.raw,format=raw",
                f"if={kind},readonly=on,file=d.raw,format=raw",
            )
        ),
        "if=,file=d.raw",
        "if=IDE,file=d.raw",
    )


@long
@system_scenario
def places_of_drives(d: Session) -> None:
    x = "if=none,id=x,format=raw,file=d.raw"
    ask_drives(
        d,
        *(
            f"{x},{more}"
            for more in (
                *("index=-1", "index=5", "index=x", "index=", "index=010", "index=08"),
                *("index=99999999999", "index=99999999999999999999", "index=0x5", "index=1,bus=1"),
                *("index=1,bus=0", "index=1,unit=0", "unit=-1", "unit=3", "unit=x"),
                *("unit=4294967296", "bus=-1", "bus=1", "bus=1,unit=2", "bus=x", "bus=0x1"),
                *("index=-2", "unit=-2", "index=x,unit=y,bus=z", "unit=1,index=1"),
            )
        ),
        "format=raw,file=d.raw,index=-1",
        "format=raw,file=d.raw,index=3",
        "format=raw,file=d.raw,index=4",
        "format=raw,file=d.raw,unit=2",
        "format=raw,file=d.raw,bus=2",
        "format=raw,file=d.raw,bus=1,unit=1",
        "format=raw,file=d.raw format=raw,file=e.raw format=raw,file=f.raw",
        "format=raw,file=d.raw,index=1 format=raw,file=e.raw format=raw,file=f.raw",
        "format=raw,file=d.raw,index=1 format=raw,file=e.raw,index=1",
        "format=raw,file=d.raw,bus=1,unit=1 index=3",
        "if=none,file=d.raw,format=raw if=none,file=e.raw,format=raw",
        "if=none,file=d.raw,format=raw,index=0 if=none,file=e.raw,format=raw,index=0",
        "if=scsi,file=d.raw,format=raw if=scsi,file=e.raw,format=raw",
        "if=scsi,index=9,file=d.raw,format=raw",
        "if=scsi,unit=7,file=d.raw,format=raw",
        "if=floppy,file=d.raw,format=raw if=floppy,file=e.raw,format=raw if=floppy,file=f.raw",
        "if=virtio,index=3,file=d.raw,format=raw if=virtio,file=e.raw,format=raw",
        "if=virtio,bus=1,file=d.raw,format=raw if=virtio,file=e.raw,format=raw",
        "id=ide0-hd1,if=none file=d.raw,format=raw file=e.raw,format=raw",
        "if=none,id=x if=none,id=x",
        "if=sd if=sd if=xen",
    )


@system_scenario
def values_of_the_options_of_drives(d: Session) -> None:
    (d.dir / "dir").mkdir()
    x = "if=none,id=x,format=raw,file=d.raw"
    ask_drives(
        d,
        *(
            f"{x},{more}"
            for more in (
                *("detect-zeroes=unmap", "discard=", "media=", "werror=auto", "cache=", "aio="),
                *("stats-account-invalid=on", "stats-account-failed=x", "copy-on-read=x"),
                *("bps=x", "file.locking=x", "file.filename=e.raw", "cache.direct=x"),
            )
        ),
        "if=none,id=x,file=dir",
        "if=none,id=x,driver=file,filename=dir",
        "if=none,id=x,filename=d.raw",
        "if=none,id=x,driver=raw,filename=d.raw",
        "if=none,id=x,driver=raw,file.filename=d.raw,size=512",
        "if=none,id=x,driver=null-co,size=0x200,read-zeroes=yes",
        "if=none,id=x,driver=raw,size=512,snapshot=on,file.filename=d.raw",
        "if=none,id=x,detect-zeroes=unmap,driver=null-co,snapshot=on",
    )


@system_scenario
def numbers_in_the_names_of_nodes(d: Session) -> None:
    images(d)
    create = ("qemu-img", "create", "-q", "-f", "qcow2")
    d.tool(*create, "d.qcow2", "1M")
    for name in ("o.qcow2", "p.qcow2", "q.qcow2"):
        d.tool(*create, "-b", "d.qcow2", "-F", "qcow2", name)
    words = (
        "file=o.qcow2,if=none,backing.node-name=b,file.locking=off",
        "file=d.raw,format=raw,if=none,snapshot=on",
        "file=p.qcow2,if=none,backing.node-name=c,backing.file.node-name=f",
        "file=q.qcow2,if=none,snapshot=on",
        "file=e.raw,format=raw,if=none",
    )
    d.start(*(word for drive in words for word in ("-drive", drive)))
    for node in d.qmp("query-named-block-nodes", flat=True):
        name = node["node-name"]
        shown = name[:-2] if name.startswith("#") else name
        d.transcript.add(f"# {shown}: {node['drv']}")
