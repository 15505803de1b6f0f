"""What qemu-io says of wrong commands, and where: to output, standard error, or who asks."""

from tests.oracle.scenario import system_scenario
from tests.oracle.scenarios.qemu_io_reopen import io
from tests.oracle.session import Session


def nodes(d: Session) -> None:
    """Add a raw disk, an image, one that can break, and a disk that can't be written to."""
    file = {"driver": "file", "filename": d.file("disk.raw")}
    d.qmp("blockdev-add", driver="raw", node_name="n", file=file)
    image = d.path("disk.qcow2")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    file = {"driver": "file", "filename": image}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    null = {"driver": "null-co", "size": 1 << 20}
    d.qmp("blockdev-add", driver="blkdebug", node_name="b", image=null, align=4096)
    d.qmp("blockdev-add", driver="null-co", node_name="ro", size=1 << 20, read_only=True)


@system_scenario
def qemu_io_commands_that_are_wrong(d: Session) -> None:
    nodes(d)
    d.file("empty", 0)
    for line in (
        "foo", "foo 1", "quit", "close", "read", "read 0", "r", "flush 1", "length 1", "alloc",
        "alloc 0 1 2", "break a", "resume", "remove_break", "help read write", "help nope",
        "read -Z 0 512", "read -P", "read 0 -1", "read --quiet 0 512", "write --help",
        "reopen --foo", "reopen -c", "reopen x", "truncate -m", "truncate -Q 1M",
        "aio_read -Q 0 1", "aio_write -n 0 512", "writev -Q 0 512", "readv -s 0 0 512",
        "discard -Q 0 512",
        "read x 512", "read 0 x", "read x y", "read 0 4G", "read 0 16E", "read 1M 512",
        "read -P 300 0", "read -P 300 x 0", "read -l x 0 512", "read -s 0 0 512",
        "read -P 0 -s 513 0 512", "readv 0 1G 1G", "readv 0 2G", "aio_read 0 1G 1G",
        "write x y", "write 0 4G", "write -zn 0 4G", "write -P 300 -z 0 512", "write -z -P 1 0 1",
        "write -nb 0 512", "write -f -c 0 512", "write 1M 512", f"write -s {d.path('no')} 0 512",
        f"write -s {d.path('empty')} 0 512", f"write -s {d.dir} 0 512",
        f"write -s {d.path('a')}\0b 0 512", "writev 0 1G 1G",
        "aio_write 0 x", "aio_write -z 0 512 512", "aio_write -u 0 512", "discard 0 2G",
        "discard 1M 512", "alloc 1M", "alloc 2M", "alloc 0 2M", "truncate -m x 1M", "truncate -1",
        "truncate 1M 2M", "length", "sleep", "sleep x", "sleep 0x1", "sleep +1", "sleep -0",
        "sleep -1", "sleep +0x", "sleep 08", f"sleep {'9' * 400}", "sleep 9223372036855",
        "sigraise", "sigraise x",
        "sigraise 100", "sigraise 0", "abort 1", "break read_aio A", "resume A",
    ):  # fmt: skip
        io(d, "n", line)
    for line in ("break nope A", "remove_break B", "resume B", "write 1M 1", "read 1 3"):
        io(d, "b", line)
    for line in ("write -c 512 512", "write -c 0 512", "truncate 1"):
        io(d, "q", line)
    for line in ("write 0 512", "aio_write 0 512", "discard 0 512", "truncate 512", "reopen -w"):
        io(d, "ro", line)


@system_scenario
def qemu_io_reopens_with_wrong_values(d: Session) -> None:
    nodes(d)
    for options in (
        "read-only=x", "read-only", "noread-only", "x", "nox", "x,y", ",", "=", "discard=nope",
        "discard=on", "nodiscard", "detect-zeroes=nope", "detect-zeroes=unmap", "offset=x",
        "size=x", "cache.direct=x", "cache.x=1", "cache=none", "auto-read-only=x",
        "force-share=x", "force-share=on", "file=x", "driver=qcow2", "node-name=m",
    ):  # fmt: skip
        io(d, "n", f"reopen -o {options}")
    for options in (
        "lazy-refcounts=x", "lazy-refcounts", "overlap-check=x", "overlap-check.template=x",
        "overlap-check=all", "overlap-check.active-l1=x", "overlap-check.active-l1=off",
        "overlap-check.nope=on", "cache-size=x", "cache-size=-1", "cache-size=1.5M",
        "cache-size=", "cache-size=99999999999999999999", "cache-clean-interval=-1",
        "cache-clean-interval=1k", "cache-clean-interval=4294967296", "backing=x",
        "pass-discard-request=x", "l2-cache-entry-size=3",
    ):  # fmt: skip
        io(d, "q", f"reopen -o {options}")
    for options in ("size=x", "latency-ns=x", "read-zeroes=x"):
        io(d, "ro", f"reopen -o {options}")


#: Options in orders in which the first wrong one decides.
_ORDERS = (
    "-P", "-Pq", "-P 300 -Z", "-Z -P 300", "-i -P 300", "-P 300 -i", "-i -Z", "-Z -i", "-qC",
    "-CqP 1", "-CqP1", "-qP", "--", "-- -q", "-- -P 1", "-", "-q -", "--q", "-:", "-q=",
    "-P 1 -P 300", "-l x -P 300", "-s", "-l -1", "-P 1 -l 2k", "-P 1 -s 1k", "-P 1 -l 0",
    "-P 0xcd -s 1 -l 511", "-P 0xcd -s 1 -l 512", "-zc", "-fz", "-nz", "-un", "-p", "-a", "-qv",
)  # fmt: skip


@system_scenario
def qemu_io_options_in_other_orders(d: Session) -> None:
    nodes(d)
    for command in ("read", "write", "aio_read", "aio_write", "readv", "writev", "discard"):
        for options in _ORDERS:
            io(d, "n", f"{command} {options} 0 512")
        for options in ("-P", "-i", "-q", "-- -P 1"):
            io(d, "n", f"{command} {options} 1")
            io(d, "n", f"{command} 0 512 {options}")


@system_scenario
def qemu_io_numbers_that_are_no_sectors(d: Session) -> None:
    nodes(d)
    for name in "nqb":
        for line in ("read -b 1 512", "read -b 512 1", "write -b 1 512", "write -b 0 1"):
            io(d, name, line)
        for line in ("write -c 1 512", "write -c 0 1", "write -c 0 64k", "write -c 64k 960k"):
            io(d, name, line)
        for line in ("truncate -m off 9E", "truncate -1", "truncate x -m off", "truncate -moff x"):
            io(d, name, line)


@system_scenario
def qemu_io_resizing_refused(d: Session) -> None:
    nodes(d)
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("f.raw"))
    d.qmp("blockdev-add", driver="raw", node_name="w", file="f", offset=4096, size=65536)
    d.qmp("object-add", qom_type="throttle-group", id="g")
    for below in ("w", "n"):
        more = {"node-name": f"t{below}", "file": below, "throttle-group": "g"}
        d.qmp("blockdev-add", driver="throttle", **more)
    for name in ("n", "f", "q", "b", "ro", "w", "tw", "tn"):
        for line in (
            "truncate -m metadata 512k", "truncate -m falloc 512k", "truncate -m full 512k",
            "truncate -m full 1", "truncate -m OFF 1M", "truncate -m= 1M", "length",
        ):  # fmt: skip
            io(d, name, line)
    for name in ("n", "f", "tn", "b", "ro", "w", "tw"):
        io(d, name, "truncate -m metadata 2M")
    for name in ("b", "ro", "w", "tw"):
        for line in ("truncate -m full 2M", "truncate 2M", "truncate 512k"):
            io(d, name, line)


@system_scenario
def qemu_io_explains_its_commands(d: Session) -> None:
    nodes(d)
    for name in (
        "read", "write", "readv", "writev", "aio_read", "aio_write", "discard", "flush",
        "aio_flush", "truncate", "reopen", "sleep", "sigraise", "abort", "map", "alloc", "info",
        "length", "break", "remove_break", "resume", "wait_break", "help", "open", "close",
        "quit", "r", "w", "d", "f", "a", "i", "l", "t", "?",
    ):  # fmt: skip
        io(d, "n", f"help {name}")
    io(d, "n", "help")
