"""The command line: options in order, their syntax, their errors."""

import json
import signal

from tests.oracle.scenario import scenario
from tests.oracle.session import Session

NULL = "driver=null-co,size=1048576,read-zeroes=on,node-name="


def fails(d: Session, *args: str) -> None:
    """Start with options that end the daemon at once."""
    d.start(*args, monitor=False)
    d.exited()


def all_fail(d: Session, option: str, *values: str) -> None:
    for value in values:
        fails(d, option, value)


@scenario
def option_errors(d: Session) -> None:
    fails(d, "--zzz")
    fails(d, "-z")
    fails(d, "--blockdev")
    fails(d, "positional")
    fails(d, "--export")
    fails(d, "--pidfile")
    fails(d, "--monitor")


@scenario
def blockdev_option_drivers(d: Session) -> None:
    all_fail(
        d,
        "--blockdev",
        "",
        "zzz",
        "driver=zzz",
        "driver",
        "null-co",
        "null-co,node-name=1",
        "null-co,zzz=1,node-name=a",
        "driver=file,node-name=a,filename=/nonexistent/x",
        "driver=file,node-name=a",
    )


@scenario
def blockdev_option_values(d: Session) -> None:
    all_fail(
        d,
        "--blockdev",
        "driver=null-co,node-name=a,size=x",
        "driver=null-co,node-name=a,size=1.5",
        "driver=null-co,node-name=a,size=1Z",
        "driver=null-co,node-name=a,size=",
        "driver=null-co,node-name=a,size=1M",
        "driver=null-co,node-name=a,read-zeroes=1",
        "driver=null-co,node-name=a,read-zeroes=",
        "driver=null-co,node-name=a,latency-ns=1.5",
        "driver=null-co,node-name=a,latency-ns=zzz",
        "driver=null-co,node-name=a,discard=zzz",
    )


@scenario
def blockdev_option_keys(d: Session) -> None:
    all_fail(
        d,
        "--blockdev",
        "driver=null-co,node-name=a,cache=on",
        "driver=null-co,node-name=a,cache.zzz=on",
        "driver=null-co,node-name=a,cache.direct=1",
        "driver=null-co,=x",
        "driver=null-co,.a=x",
        "driver=null-co,a.=x",
        "driver=null-co,a..b=x",
        "driver=null-co,size=1,size.x=2",
        "driver=null-co,a b=x",
        "driver=null-co,,node-name=a",
    )


@scenario
def blockdev_option_nested(d: Session) -> None:
    all_fail(
        d,
        "--blockdev",
        "driver=raw,node-name=a",
        "driver=raw,node-name=a,file=none",
        "driver=raw,node-name=a,file.driver=zzz",
        "driver=raw,node-name=a,file.driver=null-co,file.zzz=1",
        "driver=raw,node-name=a,file=x,file.driver=null-co",
        "driver=raw,node-name=a,file.0=x",
        "driver=raw,node-name=a,file.0.driver=null-co",
        "driver=copy-before-write,node-name=a,file.driver=null-co",
    )


@scenario
def blockdev_option_with_two_errors(d: Session) -> None:
    """Which one is told depends on QEMU's hash tables, or on what is read first."""
    all_fail(
        d,
        "--blockdev",
        "null-co,node-name=a,zzz=1,yyy=2",
        "null-co,node-name=a,yyy=1,zzz=2",
        "null-co,node-name=a,zb=1,za=2,zc=3,zd=4",
        "raw,node-name=a,file.driver=null-co,file.zz=1,file.yy=2",
        "null-co,node-name=a,yy.1=x,yy.a=1,zz.1=x,zz.b=2",
        "null-co,node-name=a,zz.1=x,zz.b=2,yy.1=x,yy.a=1",
        "null-co,node-name=a,yy.1=x,zz.1=x",
        "a=1,a.b",
        "a=1,a.$=1",
        "a=1,a.b.$=1",
        "a.b=1,a",
        "a.b=1,a.b.c.d",
        "a.b=1,a.b.c.=1",
        "a=1,a.b.%=1,c",
    )


@scenario
def chardev_option_with_two_ids(d: Session) -> None:
    """The first one counts."""
    fails(d, "--chardev", "null,id=a,id=b", "--monitor", "b")
    fails(d, "--chardev", "null,id=a,id=1", "--monitor", "b")
    fails(d, "--chardev", "null,id=1,id=a")


@scenario
def blockdev_option_json_errors(d: Session) -> None:
    all_fail(
        d,
        "--blockdev",
        "{",
        "{}",
        "{]",
        "{zzz}",
        '{"driver": "zzz"}',
        '{"driver": "null-co", "node-name": "a", "size": "1M"}',
        '{"driver": "null-co", "node-name": "a"} x',
        '{"driver": "null-co"}',
    )


@scenario
def blockdev_option_forms(d: Session) -> None:
    name = d.file("disk,1.raw")
    d.start(
        "--blockdev",
        f"driver=file,node-name=f,filename={name.replace(',', ',,')},cache.direct=off",
        "--blockdev",
        "null-co,node-name=n,size=65536,read-zeroes=on",
        "--blockdev",
        json.dumps({"driver": "null-co", "node-name": "j", "size": 1000, "read-zeroes": True}),
        "--blockdev",
        "driver=raw,node-name=r,file.driver=null-co,file.node-name=inner,file.size=0x400",
        "--blockdev",
        "driver=raw,node-name=s,file=n,offset=512,size=512",
        "--blockdev",
        "driver=null-aio,node-name=b,size=0x1000,latency-ns=0x10",
        "--blockdev=driver=null-co,node-name=c,size=1536,read-zeroes=yes",
        "--blockdev=driver=null-co,node-name=d,size=1536,read-zeroes=true",
    )
    d.qmp("query-named-block-nodes", flat=True)


@scenario
def blockdev_option_key_given_twice(d: Session) -> None:
    d.start("--blockdev", "driver=null-co,node-name=a,size=1024,node-name=b,size=2048")
    d.qmp("query-named-block-nodes")


@scenario
def options_are_taken_in_order(d: Session) -> None:
    fails(d, "--blockdev", "driver=raw,node-name=r,file=n", "--blockdev", NULL + "n")
    fails(d, "--export", "nbd,id=e,node-name=n", "--blockdev", NULL + "n")
    fails(d, "--blockdev", NULL + "n", "--export", "nbd,id=e,node-name=n")
    fails(d, "--monitor", "chardev=x", "--chardev", "null,id=x")


@scenario
def cbw_graph_on_the_command_line(d: Session) -> None:
    disk, temp = d.file("disk.raw", 1 << 20, (0x11, 0, 1 << 20)), d.file("temp.raw")
    socket = d.path("nbd.sock")
    d.start(
        "--blockdev",
        f"driver=file,node-name=disk,filename={disk}",
        "--blockdev",
        f"driver=file,node-name=temp,filename={temp}",
        "--blockdev",
        "driver=copy-before-write,node-name=cbw,file=disk,target=temp,cbw-timeout=5,"
        "on-cbw-error=break-snapshot",
        "--blockdev",
        "driver=snapshot-access,node-name=access,file=cbw",
        "--nbd-server",
        f"addr.type=unix,addr.path={socket}",
        "--export",
        "type=nbd,id=g,node-name=cbw,name=guest,writable=on",
        "--export",
        "nbd,id=s,node-name=access,name=snapshot",
    )
    d.qmp("query-block-exports")
    d.qmp("query-named-block-nodes")
    d.io("guest", "write -P 0xaa 0 64k")
    d.io("snapshot", "read -P 0x11 0 64k", read_only=True)


@scenario
def export_option_errors(d: Session) -> None:
    node = ("--blockdev", NULL + "n")
    server = ("--nbd-server", f"addr.type=unix,addr.path={d.path('nbd.sock')}")
    for value in (
        "",
        "zzz",
        "nbd",
        "type=zzz,id=e,node-name=n",
        "nbd,id=e",
        "nbd,node-name=n",
        "nbd,id=e,node-name=none",
        "nbd,id=e,node-name=n,writable=1",
        "nbd,id=e,node-name=n,zzz=1",
        "nbd,id=e,node-name=n,bitmaps.0=none",
        "nbd,id=e,node-name=n,bitmaps=none",
        "nbd,id=e,node-name=n,bitmaps.1=none",
        "nbd,id=1,node-name=n",
    ):
        fails(d, *node, *server, "--export", value)
    twice = ("--export", "nbd,id=e,node-name=n")
    fails(d, *node, *server, *twice, *twice)
    fails(d, *node, *server, "--export", "{}")
    fails(d, *node, *server, "--export", "type=nbd,id=e,node-name=n,writable=maybe")


@scenario
def nbd_server_option_errors(d: Session) -> None:
    all_fail(
        d,
        "--nbd-server",
        "",
        "zzz",
        "addr.type=unix",
        "addr.type=zzz",
        f"addr.type=unix,addr.path={d.path('none/x')}",
        "addr.type=unix,addr.path=x,zzz=1",
        "addr.type=unix,addr.path=x,max-connections=x",
        "addr.type=inet,addr.host=127.0.0.1",
        "addr.type=unix,addr.path=x,tls-creds=none",
        "unix:x",
        "addr=unix:x",
    )
    once = ("--nbd-server", f"addr.type=unix,addr.path={d.path('nbd.sock')}")
    fails(d, *once, *once)


@scenario
def nbd_server_option(d: Session) -> None:
    port = d.free_port()
    d.start(
        "--blockdev",
        NULL + "n",
        "--nbd-server",
        f"addr.type=inet,addr.host=127.0.0.1,addr.port={port},max-connections=3",
        "--export",
        "nbd,id=e,node-name=n",
    )
    d.qmp("query-block-exports")
    d.tool("qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 1M", f"nbd://127.0.0.1:{port}/n")
    d.qmp("nbd-server-stop")


@scenario
def chardev_option_errors(d: Session) -> None:
    all_fail(
        d,
        "--chardev",
        "",
        "zzz",
        "zzz,id=a",
        "socket",
        "socket,id=a",
        "socket,id=a,path=x,zzz=1",
        "socket,id=a,host=x",
        "socket,id=a,port=1",
        "socket,id=1,path=x",
        "socket,path=x,server=on",
        f"socket,id=a,path={d.path('none/x')},server=on,wait=off",
        f"socket,id=a,path={d.path('nobody')}",
        "socket,id=a,path=x,server=maybe",
    )


@scenario
def monitor_option_errors(d: Session) -> None:
    all_fail(
        d,
        "--monitor",
        "",
        "none",
        "chardev=none",
        "mode=control",
        "chardev=none,mode=zzz",
        "chardev=none,zzz=1",
        "chardev=none,pretty=maybe",
    )
    chardev = ("--chardev", f"socket,id=c,path={d.path('x')},server=on,wait=off")
    fails(d, *chardev, "--monitor", "chardev=c,mode=readline")
    fails(d, *chardev, "--monitor", "c", "--monitor", "c")


@scenario
def object_option_errors(d: Session) -> None:
    all_fail(
        d,
        "--object",
        "",
        "zzz",
        "zzz,id=a",
        "throttle-group",
        "throttle-group,id=1",
        "throttle-group,id=a,zzz=1",
        "throttle-group,id=a,x-bps-read=x",
        "throttle-group,id=a,limits.zzz=1",
        "qom-type=throttle-group",
        "secret,id=a",
        "secret,id=a,data=x,zzz=1",
    )


@scenario
def throttle_group_object(d: Session) -> None:
    d.start(
        "--object",
        "throttle-group,id=a,x-bps-read=1000",
        "--object",
        "throttle-group,id=b,limits.bps-total=1000",
    )
    d.qmp("query-named-block-nodes")


@scenario
def throttle_group_object_twice(d: Session) -> None:
    fails(d, "--object", "throttle-group,id=a", "--object", "throttle-group,id=a")


@scenario
def pidfile_option(d: Session) -> None:
    fails(d, "--pidfile", d.path("none/pid"))
    fails(d, "--pidfile", d.path(""))
    d.start("--pidfile", d.path("pid"), "--blockdev", NULL + "n", monitor=False)
    d.wait_for_file("pid")
    d.pidfile("pid")
    d.kill(signal.SIGTERM)
    d.gone("pid")


@scenario
def pidfile_over_a_file_that_is_there(d: Session) -> None:
    """It is written in place, with all its names; one of them goes in the end."""
    d.file("target", 100)
    d.tool("ln", "target", "other")
    d.tool("ln", "-s", "target", "link")
    d.start("--pidfile", d.path("link"), monitor=False)
    d.pidfile("link")
    d.pidfile("other")
    d.kill(signal.SIGTERM)
    d.tool("ls")
    d.tool("ln", "-s", "loop", "loop")
    fails(d, "--pidfile", d.path("loop"))


@scenario
def interrupted(d: Session) -> None:
    d.start("--pidfile", d.path("pid"), monitor=False)
    d.wait_for_file("pid")
    d.kill(signal.SIGINT)


@scenario
def daemonized(d: Session) -> None:
    path = d.path("qmp.sock")
    d.run_with_input(
        b"",
        "--daemonize",
        *("--pidfile", d.path("pid")),
        *("--chardev", f"socket,id=m,path={path},server=on,wait=off"),
        *("--monitor", "chardev=m"),
    )
    d.adopt("pid")
    d.qmp("query-jobs")
    create = {"driver": "file", "filename": d.path("image"), "size": 512}
    d.qmp("blockdev-create", job_id="j", options=create)
    d.event('"status": "concluded"')
    d.tool("stat", "-c", "%A", "image", "qmp.sock", "pid")


@scenario
def daemonized_with_error(d: Session) -> None:
    d.run_with_input(b"", "--daemonize", "--blockdev", "driver=zzz")
    d.run_with_input(b"", "--daemonize", "--monitor", "chardev=none")


@scenario
def two_options_in_one_argument_list(d: Session) -> None:
    """Long options may be shortened, and take their value after ``=``."""
    d.start(f"--blockdev={NULL}n", "--block", NULL + "m", "--nbd=addr.type=unix,addr.path=x")
    d.qmp("query-named-block-nodes", flat=True)


@scenario
def version_option(d: Session) -> None:
    d.run_with_input(b"", "-V")
    d.run_with_input(b"", "--version", "--zzz")


@scenario
def commandline_names_with_line_ends(d: Session) -> None:
    """What is wrong follows the name, however many lines that has."""
    d.start("--blockdev", f"file,node-name=n,filename={d.path('a')}\nb/c", monitor=False)
    d.exited()
