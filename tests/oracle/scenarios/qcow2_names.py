"""Names in qcow2 images that are no UTF-8."""

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.qcow2_bitmaps import add, close, opened, seen
from tests.oracle.session import Session

#: In C's escapes: a byte that begins nothing, half a character, a sound one.
_NAME = r"n\377\303-\303\251"


def shell(d: Session, command: str) -> None:
    """Run a command of the shell in which ``$n`` is the name; show bytes that are no ASCII."""
    d.tool("sh", "-c", f"n=$(printf '{_NAME}'); ({command}) 2>&1 | LC_ALL=C cat -v")


@scenario
def qcow2_names_that_are_no_text_are_kept(d: Session) -> None:
    """The header, the directory of bitmaps and the table of snapshots are written anew."""
    shell(d, 'truncate -s 4M "$n" && qemu-io -f raw -c "write -P 9 0 4M" "$n" >/dev/null')
    shell(d, 'qemu-img create -q -f qcow2 -b "$n" -F raw a.qcow2')
    shell(d, 'qemu-img bitmap --add a.qcow2 "$n" && qemu-img bitmap --add a.qcow2 other')
    shell(d, 'qemu-img snapshot -c "$n" a.qcow2')
    opened(d)
    seen(d)
    d.qmp("query-named-block-nodes", flat=True)
    add(d, "new")
    d.qmp("blockdev-snapshot-internal-sync", device="a", name="new")
    d.qmp("block-dirty-bitmap-remove", node="a", name="other")
    close(d)
    shell(d, "qemu-img info a.qcow2 | grep -a -v -e disk -e date -e 1970 -e 20..-")
    shell(d, "qemu-img check a.qcow2 | grep -v offset")
    shell(d, 'qemu-io -r -c "read -P 9 0 4M" a.qcow2')
    shell(d, 'qemu-img snapshot -a "$n" a.qcow2 && qemu-img bitmap --remove a.qcow2 "$n"')


@scenario
def qcow2_data_file_whose_name_is_no_text(d: Session) -> None:
    shell(d, 'qemu-img create -q -f qcow2 -o "data_file=$n" a.qcow2 1M')
    opened(d)
    seen(d)
    add(d)
    close(d)
    shell(d, "qemu-img info a.qcow2 | grep -a -e data")


def _cut(d: Session, *texts: bytes) -> None:
    """Put a NUL in the place of the first byte ``_`` of texts in the image."""
    path = d.dir / "a.qcow2"
    data = path.read_bytes()
    for text in texts:
        assert text in data
        data = data.replace(text, text.replace(b"_", b"\0", 1))
    path.write_bytes(data)


@scenario
def qcow2_names_end_at_a_nul(d: Session) -> None:
    shell(d, "truncate -s 4M base && cp base base_c")
    shell(d, "qemu-img create -q -f qcow2 -b base_c -F raw a.qcow2")
    shell(d, "qemu-img bitmap --add a.qcow2 bitmap_c && qemu-img snapshot -c snapshot_c a.qcow2")
    _cut(d, b"base_c", b"bitmap_c", b"snapshot_c")
    opened(d)
    seen(d)
    d.qmp("query-named-block-nodes", flat=True)
    add(d, "bitmap")
    add(d, "new")
    d.qmp("blockdev-snapshot-internal-sync", device="a", name="snapshot")
    d.qmp("blockdev-snapshot-internal-sync", device="a", name="new")
    d.qmp("block-dirty-bitmap-remove", node="a", name="bitmap")
    close(d)
    shell(d, "qemu-img info a.qcow2 | grep -a -v -e disk -e date -e 1970 -e 20..-")
    shell(d, "qemu-img check a.qcow2 | grep -v offset")


@scenario
def qcow2_zeroes_in_names_are_two_bytes(d: Session) -> None:
    """As they are where QEMU has read JSON; so nothing ends at them."""
    shell(d, "truncate -s 1M base && qemu-img create -q -f qcow2 -b base -F raw a.qcow2")
    opened(d)
    for name in ("b\0one", "b\0two"):
        add(d, name)
    for name in ("s\0one", "s\0two", "\0" * 200, "s" + "\xe9" * 200):
        d.qmp("blockdev-snapshot-internal-sync", device="a", name=name)
    d.qmp("change-backing-file", device="a", image_node_name="a", backing_file="f\0one")
    close(d)
    opened(d, backing=None)
    seen(d)
    d.qmp("block-dirty-bitmap-remove", node="a", name="b\0one")
    d.qmp("blockdev-snapshot-delete-internal-sync", device="a", name="s\0one")
    close(d)
    shell(d, "qemu-img info a.qcow2 | grep -a -v -e disk -e 1970")


@scenario
def qcow2_data_file_with_a_zero_in_its_name(d: Session) -> None:
    name = b"d\xc0\x80e".decode(errors="surrogateescape")
    for path in (d.file(name, 0), d.file("a.qcow2", 0)):
        assert path
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.path("a.qcow2"))
    d.qmp("blockdev-add", driver="file", node_name="d", filename=d.path("d\0e"))
    options = {"driver": "qcow2", "file": "f", "data-file": "d", "size": 1 << 20}
    d.qmp("blockdev-create", job_id="j", options=options)
    d.event("concluded")
    d.qmp("query-jobs")
    for node in ("f", "d"):
        d.qmp("blockdev-del", node_name=node)
    opened(d)
    seen(d)
    close(d)


@scenario
def qcow2_format_and_data_file_end_at_a_nul(d: Session) -> None:
    shell(d, "truncate -s 1M base && qemu-img create -q -f qcow2 -b base -F raw a.qcow2")
    data = (d.dir / "a.qcow2").read_bytes()
    (d.dir / "a.qcow2").write_bytes(data.replace(b"\3raw\0\0\0\0", b"\7raw\0xyz", 1))
    opened(d)
    seen(d)
    add(d)
    close(d)
    shell(d, "qemu-img info a.qcow2 | grep -a -e back")
    shell(d, 'qemu-img create -q -f qcow2 -o "data_file=data_c" a.qcow2 1M; cp data_c data')
    _cut(d, b"data_c")
    opened(d)
    seen(d)
    add(d)
    close(d)
    shell(d, "qemu-img info a.qcow2 | grep -a -e data")


@scenario
def qcow2_extensions_that_reach_too_far(d: Session) -> None:
    shell(d, "truncate -s 1M base && qemu-img create -q -f qcow2 -b base -F raw a.qcow2")
    whole = (d.dir / "a.qcow2").read_bytes()
    name = int.from_bytes(whole[8:16], "big")
    end = name - 8  # what ends the extensions
    assert not any(whole[end:name])
    far = whole[:end] + (5).to_bytes(8, "big") + whole[name:]
    for what, at in (("of the end", name), ("half of the end", name - 4), ("none", end)):
        for data in (whole, far):
            d.transcript.add(f"# {what}, {data is far}")
            (d.dir / "a.qcow2").write_bytes(data[:8] + at.to_bytes(8, "big") + data[16:])
            opened(d)
            close(d)


@scenario
def qcow2_directory_is_not_written_in_place_when_its_names_have_become_shorter(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    for name in ("long_er_than_eight_bytes", "other"):
        d.tool("qemu-img", "bitmap", "--add", "a.qcow2", name)
    _cut(d, b"long_er_than_eight_bytes")
    for read_only in (True, False):
        opened(d, read_only=read_only)
        seen(d)
        close(d)
