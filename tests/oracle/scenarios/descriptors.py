"""Images that are opened by descriptors which the program inherits."""

import contextlib
import os
from collections.abc import Callable

from tests.oracle.scenario import Scenario, system_scenario
from tests.oracle.scenarios.probing import unname_backing_format
from tests.oracle.scenarios.qemu_io_reopen import io
from tests.oracle.session import Session
from tests.tools.dial import dial

#: Where descriptors are put, so that both programs get the same numbers.
_RAW_RW, _RAW_RO, _IMAGE_RW, _IMAGE_RO = 61, 62, 63, 64


def inheriting(d: Session, *options: str, monitor: bool = True) -> None:
    """Start with descriptors of a raw disk and of an image, to read or to write."""
    raw, image = d.file("disk.raw"), d.path("disk.qcow2")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    opened = (
        (_RAW_RW, raw, os.O_RDWR),
        (_RAW_RO, raw, os.O_RDONLY),
        (_IMAGE_RW, image, os.O_RDWR),
        (_IMAGE_RO, image, os.O_RDONLY),
    )
    try:
        for number, name, flags in opened:
            fd = os.open(name, flags)
            os.dup2(fd, number)
            os.close(fd)
        d.start(*options, monitor=monitor, fds=tuple(number for number, _, _ in opened))
    finally:
        for number, _, _ in opened:
            os.close(number)


def sets(*numbers: int) -> list[str]:
    """Return the options that put descriptors into set 1."""
    return [word for number in numbers for word in ("-add-fd", f"fd={number},set=1")]


def refused(name: str, *options: str) -> None:
    """Make a scenario of a start that fails."""

    def run(d: Session) -> None:
        inheriting(d, *options, monitor=False)
        d.exited()

    run.__name__ = name
    system_scenario(run)


def opened(name: str, *options: str, then: Callable[[Session], None]) -> Scenario:
    """Make a scenario of a start that succeeds."""

    def run(d: Session) -> None:
        inheriting(d, *options)
        d.qmp("query-named-block-nodes", flat=True)
        then(d)
        io(d, "d", "read -q 0 512")

    run.__name__ = name
    return system_scenario(run)


def write(d: Session) -> None:
    io(d, "d", "write -q -P 5 0 512")
    io(d, "d", "read -P 5 0 512")


def become_writable(d: Session) -> None:
    io(d, "d", "reopen -w")
    io(d, "d", "write 0 512")


_DRIVE = "if=none,id=d,file=/dev/fdset/1"
_FILE = "driver=file,node-name=f,filename=/dev/fdset/1"
_AUTO = ("-blockdev", f"{_FILE},auto-read-only=on")

opened("fdset_of_a_drive", *sets(_RAW_RW, _RAW_RO), "-drive", f"{_DRIVE},format=raw", then=write)
opened("fdset_of_a_probed_image", *sets(_IMAGE_RO, _IMAGE_RW), "-drive", _DRIVE, then=write)
opened(
    "fdset_to_read_a_drive", *sets(_RAW_RO), "-drive", f"{_DRIVE},format=raw,readonly=on",
    then=become_writable,
)  # fmt: skip
opened("fdset_below_a_snapshot", *sets(_IMAGE_RO), "-drive", f"{_DRIVE},snapshot=on", then=write)
opened(
    "fdset_of_a_node", *sets(_RAW_RW, _RAW_RO), *_AUTO, "-blockdev",
    "driver=raw,file=f,node-name=d", then=write,
)  # fmt: skip
opened(
    "fdset_of_an_image", *sets(_IMAGE_RW, _IMAGE_RO), *_AUTO, "-blockdev",
    "driver=qcow2,file=f,node-name=d", then=write,
)  # fmt: skip
opened(
    "fdset_to_read_a_node", *sets(_RAW_RO), *_AUTO, "-blockdev",
    "driver=raw,file=f,node-name=d,read-only=on", then=become_writable,
)  # fmt: skip

refused("fdset_without_one_to_read", *sets(_RAW_RW), "-drive", f"{_DRIVE},format=raw")
refused("fdset_without_one_to_write", *sets(_RAW_RO), "-blockdev", _FILE)
refused("fdset_that_is_not_there", "-drive", _DRIVE)
refused("fdset_that_is_no_number", "-drive", "if=none,format=raw,file=/dev/fdset/x")
refused("fdset_of_another_cache_mode", *sets(_RAW_RW), "-drive", f"{_DRIVE},format=raw,cache=none")


@system_scenario
def descriptors_in_sets_are_open_there_alone(d: Session) -> None:
    twice = ("-add-fd", f"fd={_RAW_RO},set=2")
    inheriting(d, *sets(_RAW_RW, _RAW_RO), *twice, "-pidfile", d.path("pid"))
    d.qmp("query-name")
    process = (d.dir / "pid").read_text().strip()
    for number in (_RAW_RW, _RAW_RO, _IMAGE_RW):
        is_open = os.path.exists(f"/proc/{process}/fd/{number}")
        d.transcript.add(f"# {number} is {'open' if is_open else 'closed'}")


@system_scenario
def fdset_that_an_image_is_created_in(d: Session) -> None:
    inheriting(d, *sets(_RAW_RO, _RAW_RW), "-add-fd", f"fd={_IMAGE_RO},set=2")
    for number in (1, 2, 3):
        create = {"driver": "file", "filename": f"/dev/fdset/{number}", "size": 4096}
        d.qmp("blockdev-create", job_id=f"job{number}", options=create)
        d.event('"concluded"')
    d.qmp("query-jobs")
    d.content("disk.raw")
    # Nothing of it is locked any more, though the set still has the file open.
    d.qmp("blockdev-add", driver="file", node_name="f", filename="/dev/fdset/1")
    d.qmp("blockdev-create", job_id="job4", options={"driver": "qcow2", "file": "f", "size": 0})
    d.event('"concluded"')
    d.qmp("query-jobs")


@system_scenario
def image_is_created_whose_name_has_a_zero(d: Session) -> None:
    name = d.path("a\0b")
    d.qmp(
        "blockdev-create", job_id="j", options={"driver": "file", "filename": name, "size": 4096}
    )
    d.event('"concluded"')
    d.qmp("blockdev-add", driver="file", node_name="n", filename=name)
    d.qmp("query-jobs")


@system_scenario
def fdset_of_a_backing_file_whose_format_is_not_said(d: Session) -> None:
    inheriting(d, *sets(_RAW_RO, _RAW_RW))
    d.tool(
        *("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "/dev/fdset/1", "-F", "raw"),
        *("over.qcow2", "1M"),
    )
    unname_backing_format(d, "over.qcow2")
    file = {"driver": "file", "filename": d.path("over.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="over", file=file)
    d.qmp("query-named-block-nodes", flat=True)


def _sockets_of(process: str) -> int:
    count = 0
    for name in os.listdir(folder := f"/proc/{process}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed just now
            count += os.readlink(f"{folder}/{name}").startswith("socket:")
    return count


@system_scenario
def sets_stay_while_somebody_is_at_the_human_monitor(d: Session) -> None:
    human = f"socket,id=h,path={d.path('h.sock')},server=on,wait=off"
    options = ("-chardev", human, "-mon", "chardev=h,mode=readline")
    d.start(*options, "-pidfile", d.path("pid"))
    d.transcript.masks |= {f'"fd": {number}': '"fd": NUMBER' for number in range(3, 99)}
    d.qmp("cont")
    process = (d.dir / "pid").read_text().strip()
    with dial(d.path("h.sock")) as person:
        person.recv(1)
        with open(os.devnull, "rb") as file:
            d.qmp_with_descriptor(file.fileno(), "add-fd", {"fdset-id": 1})
        before = _sockets_of(process)
        d.hang_up()
        d.until(lambda: _sockets_of(process) < before)
        d.reconnect()
        d.qmp("query-fdsets")
        d.hang_up()
        d.until(lambda: _sockets_of(process) < before)
    d.until(lambda: _sockets_of(process) < before - 1)
    d.reconnect()
    d.qmp("query-fdsets")


@system_scenario
def names_of_descriptors_that_begin_with_digits(d: Session) -> None:
    """Those that are no ASCII are none."""
    d.start()
    with open(os.devnull, "rb") as file:
        for name in ("3", "0x", "\u0663", "\uff13", "\u00b2", "", "a3"):
            d.give_descriptor(name, file.fileno())
            d.qmp("closefd", fdname=name)
