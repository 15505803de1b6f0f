"""The command line: words out of place, help, --trace, and options of character devices."""

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.commandline import all_fail, fails
from tests.oracle.session import Session


def _say(d: Session, *args: str) -> None:
    """Run the daemon to an end that the options bring about."""
    d.run_with_input(b"", *args)


@scenario
def words_that_are_no_options(d: Session) -> None:
    """They are complained of where they stand, after options that are no options."""
    for words in (
        ["x", "--zzz"], ["x", "y", "--", "z"], ["", "-Z"], ["-", "--daemonize=x"],
        ["x", "--blockdev", "driver=zzz"], ["--blockdev", "driver=zzz", "x"], ["--zz=1"], ["--=1"],
        ["x", "--object", "secret,help"], ["--object", "secret,help", "x"],
    ):  # fmt: skip
        _say(d, *words)


@scenario
def help_is_given_in_the_order_of_options(d: Session) -> None:
    _say(d, "--blockdev", "driver=zzz", "--object", "secret,help")
    _say(d, "--object", "secret,help", "--blockdev", "driver=zzz")
    _say(d, "--object", "secret,help", "--zzz")
    _say(d, "--pidfile", d.path("pid"), "--object", "secret,help")
    d.gone("started.pid")
    _say(d, "--daemonize", "--object", "secret,help")


@scenario
def help_of_objects(d: Session) -> None:
    for value in (
        "secret,help", "help,qom-type=secret", "secret,?", "iothread,help,id=a",
        "secret,zzz=1,help", "help,zzz", "secret,,help", "secret,data=x,,help", "?,x",
        "secret,help=on", "help=on", "secret,id=help,zzz=1", "secret,id=a,data=x,help",
    ):  # fmt: skip
        _say(d, "--object", value)


@scenario
def trace_options(d: Session) -> None:
    d.file("old", 0)
    (d.dir / "events").write_text("# c\n\nnosuch\n-nosuch\nzz*\n a\n -b\nc d\n")
    for value in (
        "nosuch", "-nosuch", "nosuch*", "-", "", "enable=x,enable=y", ",,", "enable=x,,y", "x=y",
        "=x", "id=1", "id=x", "help=on", "x,help", "?,x=y", "events=", "events=/nonexistent",
        f"events={d.path('events')}", f"events={d.path('events')},enable=z", f"events={d.dir}",
        "file=", f"file={d.dir}", f"file={d.path('no/x')}", f"enable=x,file={d.path('old')}",
        f"file={d.path('a')},file={d.path('no/b')}",
    ):  # fmt: skip
        # The last option ends what the others let run.
        _say(d, "--trace", value, "--monitor", "none")
    d.gone("a")


@scenario
def pidfile_without_a_name(d: Session) -> None:
    fails(d, "--pidfile", "")


@scenario
def chardev_options_of_other_kinds(d: Session) -> None:
    all_fail(
        d,
        "--chardev",
        *("null,server=x", "null,size=1,zzz=1", "null,foo=1,id=1", "null,server=x,foo=1,id=a"),
        *("stdio,id=a,signal=x", "socket,id=a,path=x,to=x", "socket,id=a,path=x,to=1.5"),
        *("socket,id=a,path=x,reconnect=x", "socket,id=a,path=x,to=18446744073709551616"),
        *("null,id=a,ipv4=x", "null,logappend=x,id=a", "socket,id=a,path=x,rows=-1"),
        *("socket,help", "null,id=a,help", "id=a,?", "socket,zzz=1,help"),
    )


@scenario
def chardev_options_that_contradict_each_other(d: Session) -> None:
    all_fail(
        d,
        "--chardev",
        *("socket,id=a,path=x,host=y", "socket,id=a,path=x,fd=3", "socket,id=a,host=x,fd=y"),
        "socket,id=a,path=x,host=y,server=on,reconnect=1",
        *("socket,id=a,path=x,server=on,reconnect=1", "socket,id=a,path=x,server=on,reconnect=0"),
        *("socket,id=a,path=x,wait=off", "socket,id=a,path=x,server=off,wait=on"),
        "socket,id=a,host=127.0.0.1,port=0,server=on,wait=off,ipv4=off,ipv6=off",
        "socket,id=a,host=127.0.0.1,port=0,server=on,wait=off,ipv4=off",
        "socket,id=a,host=127.0.0.1,port=-1,server=on,wait=off",
    )


@scenario
def protocols_of_unix_sockets(d: Session) -> None:
    """Nobody looks at them."""
    neither = "ipv4=off,ipv6=off"
    all_fail(d, "--chardev", f"socket,id=a,path=nobody,{neither}")
    d.start("--chardev", f"socket,id=a,path={d.path('a')},server=on,wait=off,{neither}")
    d.qmp("query-chardev")


#: Too large, negative or of digits that C doesn't know.
NO_DESCRIPTORS = (
    *("100000000000000000000", "4294967299", "2147483648", "4294967295", "2147483647", "-1"),
    *("-2147483648", "-2147483649", "0x3", "3x", "\u0663", "", "0" * 4500, "9" * 4500, "099"),
)


@scenario
def nbd_server_addresses_that_are_wrong(d: Session) -> None:
    host = "addr.type=inet,addr.host=127.0.0.1,addr.port"
    all_fail(
        d,
        "--nbd-server",
        f"addr.type=unix,addr.path={'a' * 200}",
        "addr.type=fd,addr.str=x",
        *(f"addr.type=fd,addr.str={number}" for number in NO_DESCRIPTORS),
        *(f"{host}=http,addr.numeric=on", f"{host}=-1", f"{host}=5,addr.to=4"),
    )


@scenario
def values_in_dotted_lists(d: Session) -> None:
    debug = "blkdebug,node-name=b,image.driver=null-co"
    all_fail(
        d,
        "--blockdev",
        "null-co,node-name=a,size=9223372036854775808",
        f"{debug},unshare-child-perms.0=zz",
        f"{debug},inject-error.0.event=read_aio,inject-error.00.event=x",
        f"{debug},inject-error.99999999999.event=x",
    )


@scenario
def indexes_that_are_given_twice(d: Session) -> None:
    """The order of hash buckets decides, not that of the command line."""
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "q.qcow2", "1M")
    image = "qcow2,node-name=q,read-only=on,file.driver=file,file.filename=q.qcow2"
    server = f"addr.type=unix,addr.path={d.path('nbd.sock')}"
    for values in (
        *("0=a,00=b", "00=b,0=a", "00=a,000=b", "000=b,00=a", "0=a,00=b,000=c", "000=c,00=b,0=a"),
        *("0=a,0000=b,1=c", "0=a,00=b,2=c", "00=a,0.node=q", "0.node=q,00=a"),
    ):
        bitmaps = "".join(f",bitmaps.{value}" for value in values.split(","))
        export = f"nbd,id=e,node-name=q{bitmaps}"
        fails(d, "--blockdev", image, "--nbd-server", server, "--export", export)
