"""What NBD clients negotiate: options, meta contexts, what is told of an export."""

import struct

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.nbd_wire import (
    ABORT,
    BLOCK_STATUS,
    DISC,
    EXPORT_NAME,
    GO,
    INFO,
    LIST,
    LIST_META,
    READ,
    SET_META,
    STARTTLS,
    STRUCTURED,
    info,
    meta,
    name_of,
    serve,
)
from tests.oracle.scenarios.nodes import null
from tests.oracle.session import Session


@scenario
def wire_options(d: Session) -> None:
    serve(d)
    client = d.nbd(None).flags()
    client.option(LIST)
    client.option(LIST, b"x")
    client.option(INFO, info("e"))
    client.option(INFO, info("e", 0, 1, 2, 3, 4, 99))
    client.option(INFO, info("none"))
    client.option(INFO, info("none", 3))
    client.option(INFO, b"")
    client.option(INFO, b"\0\0\0\1")
    client.option(INFO, name_of("e") + b"\0\2\0\1")
    client.option(INFO, name_of("e"))
    client.option(INFO, b"\xff\xff\xff\xff" + b"x" * 10)
    client.option(INFO, info("e") + b"trailing")
    client.option(STARTTLS)
    client.option(STARTTLS, b"x")
    client.option(4)
    client.option(99, b"data")
    client.option(STRUCTURED, b"x")
    client.option(STRUCTURED)
    client.option(STRUCTURED)
    client.option(GO, info("e", 3))
    client.request(DISC)
    client.end()


@scenario
def wire_option_names(d: Session) -> None:
    serve(d)
    client = d.nbd(None).flags()
    for name in ("x" * 80, "x" * 81, "x" * 4096, "x" * 4097, "e\0", "E", "é"):
        client.option(INFO, info(name))
    client.option(GO, info("none"))
    client.option(ABORT)
    client.end()


@scenario
def wire_meta_contexts(d: Session) -> None:
    serve(d)
    client = d.nbd(None).flags()
    client.option(LIST_META, meta("e"))
    client.option(STRUCTURED)
    client.option(LIST_META, meta("e"))
    client.option(LIST_META, meta("none"))
    for query in (
        "base:",
        "base:allocation",
        "base:zzz",
        "base",
        "qemu:",
        "qemu:dirty-bitmap:",
        "qemu:dirty-bitmap:b",
        "qemu:dirty-bitmap:none",
        "qemu:dirty-bitmap",
        "qemu:allocation-depth",
        "qemu:zzz",
        "zzz:",
        "zzz",
        "",
    ):
        client.option(LIST_META, meta("e", query))
        client.option(SET_META, meta("e", query))
    client.option(SET_META, meta("e"))
    client.option(SET_META, meta("e", "base:allocation", "qemu:dirty-bitmap:b", "base:allocation"))
    client.option(SET_META, b"")
    client.option(SET_META, name_of("e"))
    client.option(SET_META, name_of("e") + b"\0\0\0\1")
    client.option(SET_META, meta("e", "base:allocation") + b"x")
    client.option(SET_META, meta("e", "x" * 4097))


@scenario
def wire_meta_contexts_of_bitmaps_with_colons(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="f", size=1 << 20)
    names = ["b", "b:c", "b:", ":", "", "dirty-bitmap:b"]
    for name in names:
        d.qmp("block-dirty-bitmap-add", node="f", name=name, disabled=True)
    d.nbd_server()
    names.remove("")
    d.qmp("block-export-add", type="nbd", id="e", node_name="f", name="e", bitmaps=names)
    client = d.nbd(None).flags()
    client.option(STRUCTURED)
    for name in (*names, "", "b:c:", "::", "dirty-bitmap:"):
        client.option(LIST_META, meta("e", f"qemu:dirty-bitmap:{name}"))
        client.option(SET_META, meta("e", f"qemu:dirty-bitmap:{name}"))
    for query in ("qemu:dirty-bitmap", "qemu:", ":", "qemu::", "base:", "base::"):
        client.option(LIST_META, meta("e", query))


@scenario
def wire_meta_contexts_of_bitmaps_with_one_name(d: Session) -> None:
    names = ("f", "g", "h")
    for name in names:
        d.qmp("blockdev-add", driver="null-co", node_name=name, size=1 << 20)
        d.qmp("block-dirty-bitmap-add", node=name, name="b", disabled=True)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f")
    d.qmp("block-dirty-bitmap-add", node="r", name="b", disabled=True)
    d.nbd_server()
    bitmaps = [{"node": node, "name": "b"} for node in ("r", "f")]
    d.qmp("block-export-add", type="nbd", id="e", node_name="r", name="e", bitmaps=bitmaps)
    client = d.nbd(None).flags()
    client.option(STRUCTURED)
    for query in ("qemu:dirty-bitmap:b", "qemu:dirty-bitmap:", "qemu:"):
        client.option(LIST_META, meta("e", query))
        client.option(SET_META, meta("e", query))
    twice = ("qemu:dirty-bitmap:b",) * 2
    client.option(LIST_META, meta("e", *twice))
    client.option(LIST_META, meta("e"))
    client.option(SET_META, meta("e", *twice))
    client.option(GO, info("e"))
    client.request(BLOCK_STATUS, 0, 4096)


@scenario
def wire_export_name(d: Session) -> None:
    serve(d)
    for flags in (1, 3):
        client = d.nbd(None).flags(flags)
        client.send(b"IHAVEOPT" + struct.pack(">II", EXPORT_NAME, 1) + b"e")
        client.take_and_note("export", 10 if flags == 3 else 134)
        client.request(READ, 0, 16, simple_data=16)
        client.request(DISC)
        client.end()
    client = d.nbd(None).flags()
    client.send(b"IHAVEOPT" + struct.pack(">II", EXPORT_NAME, 4) + b"none")
    client.end()


@scenario
def wire_bad_negotiation(d: Session) -> None:
    serve(d)
    for data in (
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\4",
        b"\0\0\0\1" + b"IHAVEOPX" + bytes(8),
        b"\0\0\0\1" + b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\1" + b"IHAVEOPT" + struct.pack(">II", GO, 0x7FFFFFFF),
        b"\0\0\0\1" + b"IHAVEOPT" + struct.pack(">II", EXPORT_NAME, 5000),
        b"\0\0\0\3" + b"IHAVEOPT" + struct.pack(">II", ABORT, 0),
    ):
        client = d.nbd(None)
        client.send(data)
        client.shut_down()
        client.take_all()
    d.nbd("e").request(READ, 0, 16)


@scenario
def wire_meta_context_of_another_export(d: Session) -> None:
    serve(d)
    d.qmp("block-export-add", type="nbd", id="o", node_name="f", name="o")
    client = d.nbd(None).flags()
    client.option(STRUCTURED)
    client.option(SET_META, meta("o", "base:allocation"))
    client.option(GO, info("e"))
    client.request(BLOCK_STATUS, 0, 4096)
    # With a client left, QEMU's order of deletions at the end is an accident.
    client.request(DISC)
    client.end()


@scenario
def wire_flags_of_exports(d: Session) -> None:
    """Transmission flags: read-only, multi-connection, fast zero..."""
    d.qmp("blockdev-add", **null("rw"))
    d.qmp("blockdev-add", **null("ro", read_only=True))
    d.nbd_server()
    d.qmp("nbd-server-add", device="rw", writable=True)
    d.qmp("nbd-server-add", device="ro")
    d.qmp("nbd-server-add", device="rw", name="down")
    client = d.nbd(None).flags()
    for name in ("rw", "ro", "down"):
        client.option(INFO, info(name, 0, 1, 2, 3))
