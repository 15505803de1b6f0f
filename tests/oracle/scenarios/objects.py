"""object-add, object-del and --object: what objects take; see ``throttle`` for what groups do."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.session import Session

BUCKETS = [f"{unit}-{what}" for unit in ("bps", "iops") for what in ("total", "read", "write")]
TOO_LONG = 1 << 32


def group(d: Session, name: str = "g", **members: Any) -> None:
    d.qmp("object-add", qom_type="throttle-group", id=name, **members)


def change(d: Session, **limits: int) -> None:
    value = {key.replace("_", "-"): value for key, value in limits.items()}
    d.qmp("qom-set", path="g", property="limits", value=value)


@scenario
def object_add_errors(d: Session) -> None:
    for arguments in (
        {},
        {"id": "a"},
        {"qom-type": "zzz", "id": "a"},
        {"qom-type": 5, "id": "a"},
        {"qom-type": "container", "id": "a"},
        {"qom-type": "throttle-group"},
        {"qom-type": "throttle-group", "id": 5},
        {"qom-type": "throttle-group", "id": ""},
        {"qom-type": "throttle-group", "id": "1"},
        {"qom-type": "throttle-group", "id": "a b", "x-bps-read": -1},
        {"qom-type": "throttle-group", "id": "1", "zzz": 1},
        {"qom-type": "throttle-group", "id": "a", "props": {}},
        {"qom-type": "throttle-group", "id": "a"},
        {"qom-type": "throttle-group", "id": "a"},
        {"qom-type": "iothread", "id": "a"},
    ):
        d.qmp("object-add", **{key.replace("-", "_"): value for key, value in arguments.items()})
    for name in ("zzz", "", "/objects", "a", "a"):
        d.qmp("object-del", id=name)
    d.qmp("object-del")
    d.qmp("object-del", id="a", zzz=1)


@scenario
def throttle_group_types(d: Session) -> None:
    for limits in (
        5,
        [],
        {"zzz": 1},
        {"bps-total": "x"},
        {"bps-total": 1.5},
        {"iops-size": None},
        {"bps-total": 1 << 63},
        {"bps-total": "x", "iops-total": "x"},
        {"bps-total-max": "x", "bps-read": "x"},
        {"iops-size": "x", "bps-total": "x"},
    ):
        group(d, limits=limits)
    group(d, limits={"zzz": 1}, x_iops_total="x")
    group(d, x_bps_total="x", x_iops_total="x")
    group(d, x_iops_size="x", x_bps_total="x")
    group(d, x_bps_read=1 << 63)


@scenario
def throttle_limits_that_are_refused(d: Session) -> None:
    for limits in (
        {"bps-total": -1},
        {"bps-total": 10**15 + 1},
        {"iops-total": 10**18},
        {"bps-total": 10, "bps-read": 10},
        {"iops-total": 10, "iops-write": 10},
        {"bps-total": 10, "bps-total-max": 20, "bps-read-max": 20},
        {"bps-total-max": 10},
        {"bps-total": 1, "bps-read-max": 5},
        {"bps-total": 10, "bps-total-max": 5},
        {"bps-total": 10, "bps-total-max": -5},
        {"bps-total": 10, "bps-total-max": 15, "bps-total-max-length": 0},
        {"bps-total": 10, "bps-total-max-length": 2},
        {"bps-total": 10, "bps-total-max-length": -5},
        {"bps-total": 1, "bps-total-max": 1, "bps-total-max-length": -1},
        {"bps-total-max-length": 5},
        {"bps-total-max-length": 0},
        {"bps-total-max-length": TOO_LONG},
        {"bps-total": 10, "bps-total-max": 10**15, "bps-total-max-length": 100},
        {"iops-total": 1, "iops-total-max": 10**15 // 2 + 1, "iops-total-max-length": 2},
        {"iops-size": 4096},
        {"iops-size": -1, "bps-total": 1},
    ):
        group(d, limits=limits)


@scenario
def throttle_limits_with_several_errors(d: Session) -> None:
    for limits in (
        {"bps-total": -1, "bps-total-max-length": 0},
        {"bps-total": -1, "bps-total-max": 5},
        {"bps-total-max": 5, "bps-total-max-length": 0},
        {"bps-total-max": -5, "bps-total-max-length": 0},
        {"bps-total-max": 10**15, "bps-total-max-length": 5},
        {"bps-total": 10**15, "bps-total-max": 9 * 10**14, "bps-total-max-length": 5},
        {"bps-total": 10, "bps-total-max": 5, "bps-total-max-length": 0},
        {"bps-read-max": 5, "bps-write-max-length": 0},
        {"bps-write-max": 5, "bps-read-max-length": 5},
        {"iops-write-max-length": -1, "bps-write": -1},
        {"bps-write": -1, "iops-total": -1, "bps-total": 1},
        {"iops-size": 100, "bps-read": 10, "bps-read-max": 5},
        {"bps-total": -1, "iops-size": 5},
    ):
        group(d, limits=limits)
    for first, second in zip(BUCKETS, BUCKETS[1:] + BUCKETS[:1], strict=True):
        group(d, limits={f"{second}-max-length": TOO_LONG, f"{first}-max-length": TOO_LONG})
        group(d, limits={f"{second}-max-length": 0, f"{first}-max": 5})


@scenario
def throttle_single_values_that_are_refused(d: Session) -> None:
    group(d, x_bps_read=-1)
    group(d, x_bps_read=10**15 + 1)
    group(d, x_iops_size=-1, x_iops_total=1)
    group(d, x_bps_read_max_length=-1)
    group(d, x_bps_read_max_length=0)
    group(d, x_bps_read_max_length=TOO_LONG)
    group(d, x_bps_read=10, x_bps_total=5)
    group(d, x_bps_read=10, limits={"bps-total": 5})
    group(d, limits={"iops-total": 5}, x_iops_total_max_length=10)
    for name in BUCKETS:  # which of two errors is told depends on the names alone
        long = {f"x_{name.replace('-', '_')}_max_length": TOO_LONG}
        group(d, **long, x_bps_read=-1)
        group(d, **long, limits={"bps-total": -1})
        group(d, **{"x_iops_total_max_length": TOO_LONG, **long})


@scenario
def throttle_limits_are_got_and_set(d: Session) -> None:
    def got(*names: str) -> None:
        for name in names or ("limits",):
            d.qmp("qom-get", path="g", property=name)

    group(d, x_bps_read=10, x_bps_write=5, x_bps_write_max=7, limits={"iops-total": 3})
    got("limits", "x-bps-read", "x-bps-write-max-length", "x-iops-total", "type", "zzz")
    change(d, bps_read=20)
    change(d, bps_total=20)
    change(d, bps_total=20, bps_read=0, bps_write=0)
    change(d, bps_write_max=0, bps_total=20, bps_read=0, bps_write=0)
    change(d, zzz=1)
    change(d)
    got()
    change(d, bps_total_max=30)
    change(d, bps_total_max_length=10, iops_size=-1)
    change(d, bps_total=40)
    got()
    d.qmp("qom-set", path="g", property="limits", value=5)
    d.qmp("qom-set", path="g", property="x-bps-total", value=5)
    d.qmp("qom-set", path="g", property="x-bps-total", value="x")
    d.qmp("qom-set", path="/objects/g", property="type", value="x")
    d.qmp("qom-set", path="g", property="zzz", value=1)
    d.qmp("object-del", id="g")
    d.qmp("qom-get", path="g", property="limits")


@scenario
def duplicate_objects_with_errors(d: Session) -> None:
    """What is wrong with the values is told before the name is looked at, or after."""
    group(d)
    group(d, limits={"bps-total": -1})
    group(d, x_bps_read=-1)
    group(d, x_bps_read=1, x_bps_total=1)
    group(d, x_bps_read_max_length=0)
    d.qmp("object-add", qom_type="secret", id="g")
    d.qmp("object-add", qom_type="secret", id="g", loaded=True)
    d.qmp("object-add", qom_type="iothread", id="g", poll_grow=-1)
    d.qmp("object-add", qom_type="iothread", id="g", thread_pool_min=65)


@scenario
def secret_objects(d: Session) -> None:
    def add(**members: Any) -> None:
        d.qmp("object-add", qom_type="secret", id="s", **members)

    d.qmp("object-add", qom_type="secret", id="short", data="x")
    d.qmp("object-add", qom_type="secret", id="key", data="k" * 32)
    add()
    add(data="x", file="y")
    add(data=5, file=5, format=5, keyid=5, iv=5)
    add(keyid=5, iv=5)
    add(data="x", format="zzz")
    add(data="x", loaded=True)
    add(data="x", zzz=1)
    add(data="-_", format="base64")
    add(file="/none")
    add(file="/")
    add(data="x", keyid="zz")
    add(data="x", keyid="short")
    add(data="x", keyid="key")
    add(data="e\nA=", format="base64")
    for name in ("data", "format", "loaded", "file", "rawdata", "type"):
        d.qmp("qom-get", path="s", property=name)
    d.qmp("qom-set", path="s", property="loaded", value=True)
    d.qmp("qom-set", path="s", property="data", value="y")
    d.qmp("qom-set", path="s", property="data", value=5)
    d.qmp("object-del", id="s")


@scenario
def iothread_objects(d: Session) -> None:
    def add(name: str = "i", **members: Any) -> None:
        d.qmp("object-add", qom_type="iothread", id=name, **members)

    add(poll_max_ns="x")
    add(aio_max_batch="x", thread_pool_min="x", poll_max_ns="x")
    add(poll_grow="x", poll_shrink="x")
    for name in ("poll_max_ns", "poll_grow", "poll_shrink", "aio_max_batch", "thread_pool_min"):
        add(**{name: -1})
        add(**{name: -1}, thread_pool_max=-1)
    add(thread_pool_min=10, thread_pool_max=5)
    add(thread_pool_min=65)
    add(thread_pool_max=0)
    add(thread_pool_max=1 << 31)
    add(thread_pool_max=64, poll_max_ns=(1 << 63) - 1)
    for name in ("poll-max-ns", "poll-grow", "aio-max-batch", "thread-pool-max", "zzz"):
        d.qmp("qom-get", path="i", property=name)
    d.qmp("qom-set", path="i", property="poll-max-ns", value=5)
    d.qmp("qom-set", path="i", property="poll-max-ns", value=-5)
    d.qmp("qom-get", path="i", property="poll-max-ns")
    d.qmp("query-iothreads")
    d.qmp("object-del", id="i")


@scenario
def objects_of_types_that_we_lack(d: Session) -> None:
    d.qmp("object-add", qom_type="can-bus", id="a")
    d.qmp("object-add", qom_type="authz-list", id="a")
    d.qmp("object-add", qom_type="tls-creds-x509", id="t")


@scenario
def encrypted_secret(d: Session) -> None:
    d.qmp("object-add", qom_type="secret", id="key", data="k" * 32)
    d.qmp(
        "object-add", qom_type="secret", id="s", format="base64", keyid="key",
        data="ZmZmZmZmZmZmZmZmZmZmZg==", iv="ZmZmZmZmZmZmZmZmZmZmZg==",
    )  # fmt: skip


@scenario
def object_help_options(d: Session) -> None:
    for asking in ("throttle-group,help", "secret,?", "qom-type=iothread,id=a,help"):
        d.run_with_input(b"", "--object", asking)


@scenario
def throttle_groups_of_the_command_line(d: Session) -> None:
    d.start(
        *("--object", "throttle-group,id=a,x-bps-read=0x10,x-bps-read-max=20"),
        *("--object", "throttle-group,id=b,limits.bps-total=1000,limits.iops-size=512,"
          "limits.iops-write=7"),
        *("--object", '{"qom-type": "throttle-group", "id": "j", "limits": {"iops-read": 5}}'),
        *("--blockdev", "null-co,node-name=n"),
        *("--blockdev", "throttle,node-name=t,file=n,throttle-group=b"),
    )  # fmt: skip
    for name in ("a", "b", "j"):
        d.qmp("qom-get", path=name, property="limits")
    d.qmp("object-del", id="b")


@scenario
def throttle_groups_of_the_command_line_refused(d: Session) -> None:
    for value in (
        "throttle-group,id=a,limits.bps-total=-1",
        "throttle-group,id=a,limits.bps-total=1k",
        "throttle-group,id=a,limits=5",
        "throttle-group,id=a,limits.bps-total=1,limits.bps-read=1",
        "throttle-group,id=a,x-bps-read=-1",
        "throttle-group,id=1,x-bps-read=-1",
        '{"qom-type": "throttle-group", "id": "1", "x-bps-read": "x"}',
        '{"qom-type": "throttle-group", "id": "1"}',
        '{"qom-type": "throttle-group", "id": 1}',
        "iothread,id=a,poll-max-ns=-1",
        "qom-type=help",
    ):
        d.start("--object", value, monitor=False)
        d.exited()
