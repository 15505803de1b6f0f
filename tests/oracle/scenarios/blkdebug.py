"""blkdebug: rules, states, limits, names, what is refused."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.nodes import query
from tests.oracle.session import Session

SIZE = 1 << 20


def add(d: Session, image: Any = None, name: str = "b", **options: Any) -> None:
    """Add a blkdebug node, by default above a file full of 0x11."""
    if image is None:
        image = {"driver": "file", "filename": d.file(f"{name}.raw", SIZE, (0x11, 0, SIZE))}
    d.qmp("blockdev-add", driver="blkdebug", node_name=name, image=image, **options)


def export(d: Session, node: str = "b") -> None:
    """Export a node writable."""
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name=node, name="x", writable=True)


_READ, _WRITE, _FLUSH, _TRIM, _ZEROES = 0, 1, 3, 4, 6


def ask(d: Session, export_name: str, *commands: str) -> None:
    """Send requests such as ``read 0 512`` and write down the replies.

    Not through qemu-io: QEMU hangs up on a client whose structured read fails.
    """
    client = d.nbd(None)
    client.go(export_name, structured=False)
    for command in commands:
        verb, offset, length = (*command.split(), "0", "0")[:3]
        at, size = int(offset), int(length)
        match verb:
            case "read":
                client.request(_READ, at, size, simple_data=size)
            case "write":
                client.request(_WRITE, at, size, data=b"\x77" * size)
            case "fua":
                client.request(_WRITE, at, size, flags=1, data=b"\x66" * size)
            case "zero":
                client.request(_ZEROES, at, size)
            case "discard":
                client.request(_TRIM, at, size)
            case "flush":
                client.request(_FLUSH)
            case _:
                raise ValueError(command)
    client.close()


def rule(event: str = "none", **more: Any) -> dict[str, Any]:
    """Return a rule."""
    return {"event": event, **more}


def raw_above(d: Session, **options: Any) -> None:
    """Add raw, which announces what it does, above blkdebug, and export it."""
    add(d, **options)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="b")
    export(d, "r")


@scenario
def blkdebug_options_refused(d: Session) -> None:
    d.qmp("blockdev-add", driver="blkdebug", node_name="b")
    add(d, "zzz")
    add(d, {"driver": "file", "filename": "nowhere"})
    for name in ("max-transfer", "opt-write-zero", "max-write-zero", "opt-discard", "max-discard"):
        for size in (-512, 768, 1 << 30, (1 << 31) - 1, 1 << 31, "512", 1.5):
            add(d, {"driver": "null-co"}, **{"align": 512, name: size})
            d.qmp("blockdev-del", node_name="b")
    for align in (-1, 3, 1 << 31, 1 << 32, 0):
        add(d, {"driver": "null-co"}, align=align)
    d.qmp("blockdev-del", node_name="b")
    add(d, {"driver": "null-co"}, align=512, opt_write_zero=1536, max_write_zero=2048)
    add(d, {"driver": "null-co"}, align=512, opt_discard=4096, max_discard=512)
    add(d, {"driver": "null-co"}, zzz=1)
    query(d)


@scenario
def blkdebug_rules_refused(d: Session) -> None:
    for given in (
        [{}],
        [rule("zzz")],
        [rule(iotype="zzz")],
        [rule(zzz=1)],
        [rule(errno="5")],
        [rule(once=1)],
        [rule(), 1],
        [rule(), {"event": 1}],
        5,
        {},
        [],
    ):
        add(d, {"driver": "null-co"}, inject_error=given)
    for given in (
        [rule()],
        [rule(new_state="1")],
        [rule(state=1)],
        [rule(**{"new-state": 1})],
        [],
    ):
        add(d, {"driver": "null-co"}, set_state=given)
    add(d, {"driver": "null-co"}, set_state=[], inject_error=[])
    for name in ("take_child_perms", "unshare_child_perms"):
        for given in (["zzz"], "write", [1], [], ["graph-mod"]):
            add(d, {"driver": "null-co"}, **{name: given})
    query(d)


@scenario
def blkdebug_names(d: Session) -> None:
    (d.dir / "c.conf").write_text('[set-state]\nevent = "none"\nnew_state = "2"\n')
    add(d)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="b")
    add(d, name="c", config=d.path("c.conf"))
    add(d, name="d", align=512)
    add(d, name="e", inject_error=[rule(sector=3, once=False, immediately=True, iotype="read")])
    add(d, name="f", set_state=[rule("read_aio", state=1, new_state=2)], max_transfer=512)
    add(d, name="g", take_child_perms=["write"], discard="unmap")
    add(d, {"driver": "null-co", "size": 512}, name="h")
    d.qmp("blockdev-add", driver="raw", node_name="s", file="h")
    query(d)
    d.qmp("query-named-block-nodes", flat=True)


@scenario
def blkdebug_config_refused(d: Session) -> None:
    for text in (
        "[zz]\n",
        "x\n",
        ' [inject-error]\nevent = "none"\n',
        '[inject-error]\nzz = "1"\n',
        '[inject-error]\nevent = "zz"\n',
        "[inject-error]\n",
        "[inject-error]\nevent = none\n",
        '[inject-error]\nevent = "none"\nerrno="5"\n',
        '[inject-error]\nevent = "none"\nerrno = "x"\n',
        '[inject-error]\nevent = "none"\nerrno = ""\n',
        '[inject-error]\nevent = "none"\nerrno = "99999999999999999999"\n',
        '[inject-error]\nevent = "none"\nonce = "zz"\n',
        '[inject-error]\nevent = "none"\niotype = "zz"\n',
        '[inject-error]\nevent = "none"\nstate = "1.5"\n',
        '[inject-error]\nevent = "zz"\nerrno = "x"\n',
        '[set-state]\nevent = "none"\nonce = "on"\n',
        '[set-state]\nevent = "none"\nnew_state = "x"\n[inject-error]\nevent = "zz"\n',
        '[inject-error "a"]\nevent = "none"\n[inject-error "a"]\nevent = "none"\n',
        *(f"{line}\n" for line in ("[", "[ ", "[]", "[ ]", "[set state]", '[ "x"')),
        *(f"{line}\n" for line in ("[inject-error", "[inject-error ]", '[inject-error "a')),
        *(f"{line}\n" for line in ('[inject-error ""]', '[inject-error"a"]', f"[{'a' * 70}]")),
        '[inject-error]\nevent = "none"\n[]\n',
        '[inject-error "a"x\nevent = "none"\n[ inject-error "a"]\nevent = "none"\n',
        "[inject-error",
    ):
        (d.dir / "c.conf").write_text(text)
        add(d, {"driver": "null-co"}, config=d.path("c.conf"))
    add(d, {"driver": "null-co"}, config=d.path("nowhere"))
    query(d)


@scenario
def blkdebug_config_counts(d: Session) -> None:
    (d.dir / "c.conf").write_text(
        "# comment\n\n"
        '[inject-error "a"]\nevent = "read_aio"\nevent = "none" # twice\nerrno = "0x1c"\n'
        'once = "yes"\niotype = "read"\nsector = "010"\n'
        '[set-state] \nevent = "none"\nnew_state = "4"'
    )
    add(d, config=d.path("c.conf"), inject_error=[rule("read_aio", state=4, errno=1)])
    d.qmp("blockdev-add", driver="raw", node_name="r", file="b")
    export(d, "b")
    ask(d, "x", "read 3584 512", "read 4096 512", "read 4096 512")
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("block-export-add", id="f", type="nbd", node_name="r", name="x")
    ask(d, "x", "read 0 512")


@scenario
def blkdebug_first_rule_counts(d: Session) -> None:
    rules = [rule(errno=code, once=True, iotype="read") for code in (5, 28, 5)]
    add(d, inject_error=rules)
    export(d)
    ask(d, "x", *["read 0 512"] * 4)


@scenario
def blkdebug_rule_without_errno_hides_others(d: Session) -> None:
    add(d, inject_error=[rule(errno=0, once=True, sector=1), rule(errno=28, iotype="read")])
    export(d)
    ask(d, "x", "read 0 512", "read 512 512", "read 512 512", "read 0 1024")


@scenario
def blkdebug_errno_of_every_kind(d: Session) -> None:
    codes = (1, 5, 12, 22, 28, 75, 95, 108, 13, 99999)
    rules = [rule(errno=c, sector=i, immediately=True) for i, c in enumerate(codes)]
    add(d, inject_error=rules)
    export(d)
    ask(
        d, "x", *(f"{verb} {i * 512} 512" for i in range(len(codes)) for verb in ("read", "write"))
    )


@scenario
def blkdebug_sectors(d: Session) -> None:
    rules = [rule(sector=9), rule(sector=-2, errno=28), rule(sector=(1 << 55) + 20, errno=1)]
    add(d, inject_error=rules)
    export(d)
    ask(d, "x", "read 4096 512", "read 4608 512", "write 4095 1000", "read 0 4608", "read 0 4609")
    ask(d, "x", "read 10240 1", "read 10752 512", "read 5119 1", "read 5120 512")


@scenario
def blkdebug_io_types(d: Session) -> None:
    for verb in ("read", "write", "write-zeroes", "discard", "flush"):
        name = verb[:7]
        add(d, name=name, discard="unmap", inject_error=[rule(iotype=verb)])
    add(d, name="all", discard="unmap", inject_error=[rule()])
    d.nbd_server()
    for name in ("read", "write", "write-z", "discard", "flush", "all"):
        d.qmp("block-export-add", id=name, type="nbd", node_name=name, name=name, writable=True)
        ask(d, name, "read 0 512", "write 0 512", "zero 4096 4096", "discard 8192 4096", "flush")
        ask(d, name, "fua 512 512", "read 512 512")
        d.map(name)


@scenario
def blkdebug_max_transfer(d: Session) -> None:
    add(d, max_transfer=4096, inject_error=[rule(sector=9, iotype="write", errno=28)])
    export(d)
    d.io("x", "write -P 1 0 4096", "write -P 2 0 8192", "write -P 3 4k 512", "write -P 4 100 9000")
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.content("b.raw")


@scenario
def blkdebug_zeroes_in_units(d: Session) -> None:
    sizes = {"align": 4096, "opt_write_zero": 8192, "max_write_zero": 16384}
    zeroes = rule(iotype="write-zeroes", sector=33)
    add(d, name="b", **sizes, inject_error=[zeroes])
    add(d, name="c", **sizes, inject_error=[rule(iotype="write", once=True)])
    d.nbd_server()
    verbs = ("write -z 8k 16k", "write -z 0 12k", "write -z 4k 28k", "write -z 12k 8k")
    for name in ("b", "c"):
        d.qmp("block-export-add", id=name, type="nbd", node_name=name, name=name, writable=True)
        d.io(name, *verbs, "write -z 4k 4k", "write -z 40k 4k", "write -z 41k 3k")
        d.qmp("block-export-del", id=name)
        d.event("BLOCK_EXPORT_DELETED")
        d.content(f"{name}.raw")


@scenario
def blkdebug_discards_in_units(d: Session) -> None:
    sizes = {"align": 4096, "opt_discard": 8192, "max_discard": 16384, "discard": "unmap"}
    add(d, **sizes, inject_error=[rule(iotype="discard", sector=33)])
    export(d)
    d.io("x", "discard 8k 16k", "discard 0 12k", "discard 4k 28k", "discard 12k 8k")
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.content("b.raw")


@scenario
def blkdebug_odd_length(d: Session) -> None:
    image = {"driver": "file", "filename": d.file("odd.raw", 5632, (0x11, 0, 5632))}
    add(d, image, align=4096)
    export(d)
    d.qmp("block-export-add", id="e", type="nbd", node_name="b", name="x")
    ask(d, "x", "read 4608 512", "read 0 5632")


@scenario
def blkdebug_events_of_raw(d: Session) -> None:
    rules = [rule("read_aio"), rule("write_aio", errno=28, iotype="flush")]
    raw_above(d, inject_error=rules)
    ask(d, "x", "read 0 512", "write 0 512", "read 0 512", "zero 0 512", "flush", "read 0 512")


@scenario
def blkdebug_events_of_its_own_writes(d: Session) -> None:
    d.nbd_server()
    for event in ("pwritev", "pwritev_zero", "pwritev_done"):
        name = event[-7:].strip("_")
        add(d, name=name, inject_error=[rule(event, once=True)])
        d.qmp("block-export-add", id=name, type="nbd", node_name=name, name=name, writable=True)
        ask(d, name, "read 0 512", "write 0 512", "read 0 512", "zero 0 512", "read 0 512")


@scenario
def blkdebug_events_of_partial_blocks(d: Session) -> None:
    d.nbd_server()
    for end in ("head", "after_head", "tail", "after_tail"):
        event = f"pwritev_rmw_{end}"
        add(d, name=end, align=4096, inject_error=[rule(event, iotype="write")])
        d.qmp("block-export-add", id=end, type="nbd", node_name=end, name=end, writable=True)
        d.io(end, "write 0 4k", "write 512 512", "write 3k 12k")
        add(d, name=f"{end}0", align=4096, inject_error=[rule(event, iotype="write", once=True)])
        name = f"{end}0"
        d.qmp("block-export-add", id=name, type="nbd", node_name=name, name=name, writable=True)
        d.io(name, "write 0 512", "write 0 512", "write 3k 1k", "write 3k 1k", "write -z 3k 12k")


@scenario
def blkdebug_states(d: Session) -> None:
    changes = [rule("read_aio", state=s, new_state=n) for s, n in ((1, 2), (1, 3), (2, 4), (4, 1))]
    errors = [rule("read_aio", state=s, errno=e) for s, e in ((2, 5), (3, 1), (4, 28), (0, 12))]
    raw_above(d, inject_error=errors, set_state=[*changes, rule("write_aio", new_state=3)])
    ask(d, "x", *["read 0 512"] * 5, "write 0 512", *["read 0 512"] * 2)


@scenario
def blkdebug_fails_after_a_flush(d: Session) -> None:
    changes = [rule("flush_to_disk", state=1, new_state=2), rule("read_aio", state=2, new_state=3)]
    errors = [rule("read_aio", errno=5, state=3, immediately=False, once=True)]
    raw_above(d, inject_error=errors, set_state=changes)
    ask(d, "x", "read 0 512", "flush", "read 0 512", "write 0 512", "flush", *["read 0 512"] * 3)


@scenario
def blkdebug_below_qcow2(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", d.path("a.qcow2"), "1M")
    changes = [rule("flush_to_disk", state=1, new_state=2), rule("read_aio", state=2, new_state=3)]
    errors = [rule("read_aio", errno=5, state=3, immediately=False, once=True)]
    image = {"driver": "file", "filename": d.path("a.qcow2")}
    add(d, image, set_state=changes, inject_error=errors)
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file="b")
    query(d)
    export(d, "q")
    ask(d, "x", "write 0 131072", "read 0 512", "flush", *["read 0 512"] * 3)


@scenario
def blkdebug_permissions(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="n")
    add(d, "n", take_child_perms=["write", "resize", "write"])
    add(d, "n", name="c", unshare_child_perms=["write"])
    d.qmp("blockdev-del", node_name="b")
    add(d, "n", name="c", unshare_child_perms=["write", "consistent-read"])
    add(d, "n", take_child_perms=["write"])
    add(d, "n", take_child_perms=["consistent-read"])
    add(d, "n", take_child_perms=["write-unchanged", "resize"])
    query(d)


@scenario
def blkdebug_file_names(d: Session) -> None:
    path = d.file("t.raw", SIZE)
    (d.dir / "c.conf").write_text('[set-state]\nevent = "none"\nnew_state = "2"\n')
    config = d.path("c.conf")
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=SIZE)
    for name in (
        f"blkdebug:{path}",
        f"blkdebug:zz:{path}",
        "blkdebug::zz:a",
        "blkdebug::/nowhere",
    ):
        more = {"sync": "none", "target": name, "mode": "existing", "format": "raw"}
        d.qmp("drive-backup", job_id="j", device="n", **more)
    d.qmp("drive-backup", job_id="j", device="n", sync="none", target=f"blkdebug::{path}")
    more = {"sync": "full", "target": path, "mode": "existing", "format": "null-co"}
    d.qmp("drive-backup", job_id="j", device="n", **more)
    for name in (
        "p",
        f"blkdebug::{path}",
        f"blkdebug:{config}:{path}",
        "blkdebug:a",
        "blkdebug::z:a",
    ):
        image = d.path("a.qcow2")
        d.tool(
            "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", image, "1M"
        )
        file = {"driver": "file", "filename": image}
        d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
        query(d)
        d.qmp("blockdev-del", node_name="q")


@scenario
def blkdebug_block_is_not_read_for_a_part_of_it(d: Session) -> None:
    add(d, align=4096, inject_error=[rule(iotype="read")])
    export(d)
    ask(d, "x", "write 512 512")


@scenario
def requests_go_a_long_way_down(d: Session) -> None:
    top = "n"
    d.qmp("blockdev-add", driver="null-co", node_name=top, size=1 << 20, read_zeroes=True)
    for number in range(260):
        d.qmp("blockdev-add", driver="blkdebug", node_name=f"b{number}", image=top)
        top = f"b{number}"
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name=top, name="e", writable=True)
    d.io("e", "read -q -P 0 0 64k", "write -q 0 64k", "write -q -z 0 64k", "discard -q 0 64k")
    d.io("e", "flush")
    d.map("e")
