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
