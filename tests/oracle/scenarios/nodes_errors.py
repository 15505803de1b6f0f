"""blockdev-add with what is wrong, odd or missing."""

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.nodes import add_raw, null, query
from tests.oracle.session import Session


@scenario
def driver_unknown(d: Session) -> None:
    for driver in ("zzz", "", "FILE", "null_co"):
        d.qmp("blockdev-add", driver=driver, node_name="a")
    for driver in (1, None, True, [], {}):
        d.qmp("blockdev-add", driver=driver, node_name="a")
    d.qmp("blockdev-add", driver="raw", node_name="a", file={"driver": "zzz"})
    d.qmp("blockdev-add", driver="raw", node_name="a", file={"driver": 1})
    query(d)


@scenario
def option_unknown(d: Session) -> None:
    name = d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name, zzz=1)
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name, offset=0)
    d.qmp("blockdev-add", driver="null-co", node_name="a", filename=name)
    d.qmp("blockdev-add", driver="null-co", node_name="a", zzz=1, yyy=2)
    child = {"driver": "file", "filename": name, "zzz": {"a": 1}}
    d.qmp("blockdev-add", driver="raw", node_name="a", file=child)
    d.qmp("blockdev-add", driver="null-co", node_name="a", **{"cache.direct": True})
    d.qmp("blockdev-add", driver="raw", node_name="a", **{"file.driver": "null-co"})
    query(d)


@scenario
def option_missing(d: Session) -> None:
    d.qmp("blockdev-add", driver="file", node_name="a")
    d.qmp("blockdev-add", driver="host_device", node_name="a")
    d.qmp("blockdev-add", driver="raw", node_name="a")
    d.qmp("blockdev-add", driver="raw", node_name="a", file={})
    d.qmp("blockdev-add", driver="raw", node_name="a", file={"driver": "file"})
    d.qmp("blockdev-add", driver="copy-before-write", node_name="a")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="a", file="b")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="a", target="b")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="a")
    d.qmp("blockdev-add", driver="null-co")
    d.qmp("blockdev-add", node_name="a")
    query(d)


@scenario
def option_of_wrong_type(d: Session) -> None:
    for text in (
        '{"driver": "file", "node-name": "a", "filename": 1}',
        '{"driver": "file", "node-name": "a", "filename": ["x"]}',
        '{"driver": "file", "node-name": 1, "filename": "x"}',
        '{"driver": "null-co", "node-name": "a", "size": "1M"}',
        '{"driver": "null-co", "node-name": "a", "size": 1.5}',
        '{"driver": "null-co", "node-name": "a", "size": -1}',
        '{"driver": "null-co", "node-name": "a", "latency-ns": -1}',
        '{"driver": "null-co", "node-name": "a", "read-zeroes": "on"}',
        '{"driver": "null-co", "node-name": "a", "read-zeroes": 1}',
        '{"driver": "null-co", "node-name": "a", "read-only": "on"}',
        '{"driver": "null-co", "node-name": "a", "discard": true}',
        '{"driver": "raw", "node-name": "a", "file": 1}',
        '{"driver": "raw", "node-name": "a", "file": null}',
        '{"driver": "raw", "node-name": "a", "file": true}',
        '{"driver": "raw", "node-name": "a", "file": ["x"]}',
        '{"driver": "raw", "node-name": "a", "file": {"driver": "null-co", "size": "x"}}',
        '{"driver": "raw", "node-name": "a", "file": {"driver": "raw", "file": 1}}',
        '{"driver": "raw", "node-name": "a", "offset": "1", "file": "x"}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": 1}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": "y", '
        '"bitmap": "b"}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": "y", '
        '"bitmap": {"node": "n"}}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": "y", '
        '"bitmap": {"node": "n", "name": 1}}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": "y", '
        '"on-cbw-error": "zzz"}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": "y", '
        '"cbw-timeout": -1}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": "y", '
        '"cbw-timeout": 4294967296}',
    ):
        add_raw(d, text)
    query(d)


@scenario
def node_name_invalid(d: Session) -> None:
    for name in (
        "",
        "#block1",
        "1a",
        "a b",
        "a/b",
        "-a",
        "_a",
        "a.b-c_d",
        "é",
        "a" * 31,
        "b" * 32,
    ):
        d.qmp("blockdev-add", **null(name))
    query(d)


@scenario
def node_name_missing(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", size=512)
    d.qmp("blockdev-add", driver="zzz")
    query(d)


@scenario
def node_name_duplicate(d: Session) -> None:
    d.qmp("blockdev-add", **null("a"))
    d.qmp("blockdev-add", **null("a"))
    d.qmp("blockdev-add", driver="raw", node_name="a", file="a")
    d.qmp("blockdev-add", driver="raw", node_name="b", file=null("a"))
    d.qmp("blockdev-add", driver="raw", node_name="b", file=null("b"))
    query(d)


@scenario
def nested_fails_inside(d: Session) -> None:
    good = {"driver": "file", "node-name": "proto", "filename": d.file("disk.raw")}
    d.qmp("blockdev-add", driver="raw", node_name="a", file=good, offset=1 << 30)
    query(d)
    bad = {"driver": "file", "node-name": "proto", "filename": d.path("none")}
    d.qmp("blockdev-add", driver="raw", node_name="a", file=bad)
    deeper = {"driver": "raw", "node-name": "mid", "file": bad}
    d.qmp("blockdev-add", driver="raw", node_name="a", file=deeper)
    query(d)
    d.qmp("blockdev-add", driver="raw", node_name="a", file=good)
    query(d)


@scenario
def file_missing(d: Session) -> None:
    d.qmp("blockdev-add", driver="file", node_name="a", filename=d.path("none.raw"))
    d.qmp("blockdev-add", driver="file", node_name="a", filename=d.path("no/dir.raw"))
    d.qmp("blockdev-add", driver="file", node_name="a", filename="")
    d.qmp("blockdev-add", driver="file", node_name="a", filename="relative.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename=d.path("none"), read_only=True)
    query(d)


@scenario
def file_of_wrong_kind(d: Session) -> None:
    d.qmp("blockdev-add", driver="file", node_name="a", filename=d.path(""))
    d.qmp("blockdev-add", driver="file", node_name="a", filename="/dev/null")
    d.qmp("blockdev-add", driver="file", node_name="a", filename="/dev/zero", read_only=True)
    d.qmp("blockdev-add", driver="file", node_name="a", filename=d.path("x" * 300))
    d.qmp("blockdev-add", driver="file", node_name="a", filename=d.path("y/" * 3000))
    query(d)


@scenario
def file_names_with_odd_characters(d: Session) -> None:
    for number, name in enumerate(
        ("a b.raw", "a,b.raw", "a:b.raw", 'a"b.raw', "é.raw", "json:{}")
    ):
        d.qmp("blockdev-add", driver="file", node_name=f"n{number}", filename=d.file(name, 512))
    d.qmp("query-named-block-nodes")


@scenario
def file_relative_name(d: Session) -> None:
    d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename="disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="b", filename="./disk.raw", read_only=True)
    d.qmp("blockdev-add", driver="file", node_name="c", filename="file:disk.raw")
    query(d)


@scenario
def several_errors_in_one_definition(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="n")
    missing = {"driver": "file", "filename": d.path("missing")}
    for driver in ("raw", "qcow2", "snapshot-access"):
        for file in ("nope", missing, "n"):
            for name in ("a", "n", "1"):
                definition = {"driver": driver, "file": file, "node-name": name}
                d.qmp("blockdev-add", **definition, **{"force-share": True})
                d.qmp("blockdev-add", **definition, **{"detect-zeroes": "unmap"})
                d.qmp("blockdev-add", **definition, discard="nope")
