"""Zeroes that a node detects in what is written to it (detect-zeroes)."""

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.devices import hmp
from tests.oracle.session import Session


def _detecting(d: Session, detect: str, discard: str) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", f"{detect}.qcow2", "1M")
    file = {"driver": "file", "filename": d.path(f"{detect}.qcow2")}
    more = {"detect_zeroes": detect, "discard": discard}
    d.qmp("blockdev-add", driver="qcow2", node_name=detect, file=file, **more)


@system_scenario
def compressed_writes_of_zeroes_are_detected(d: Session) -> None:
    for detect, discard in (("off", "ignore"), ("on", "ignore"), ("unmap", "unmap")):
        _detecting(d, detect, discard)
        commands = ("write -c -P 0 0 64k", "write -c -P 5 64k 64k", "write -c -P 0 64k 64k")
        hmp(d, *(f'qemu-io {detect} "{command}"' for command in commands))
        hmp(d, f'qemu-io {detect} "write -c -P 0 1024k 64k"')
        hmp(d, f'qemu-io {detect} "write -c -P 0 128k 4k"', f'qemu-io {detect} "map"')
        d.qmp("blockdev-del", node_name=detect)
        d.tool("qemu-img", "map", "--output=json", f"{detect}.qcow2")
        d.tool("qemu-img", "check", f"{detect}.qcow2")


@scenario
def compressed_backup_to_what_detects_zeroes(d: Session) -> None:
    filename = d.file("d.img", 1 << 20, (7, 0, 65536), (0, 65536, 131072), (8, 1 << 19, 65536))
    d.qmp("blockdev-add", driver="file", node_name="d", filename=filename)
    for detect, discard in (("on", "ignore"), ("unmap", "unmap")):
        _detecting(d, detect, discard)
        d.qmp("blockdev-backup", job_id="j", device="d", target=detect, sync="full", compress=True)
        d.event("BLOCK_JOB_COMPLETED")
        d.qmp("blockdev-del", node_name=detect)
        d.tool("qemu-img", "map", "--output=json", f"{detect}.qcow2")
        d.tool("qemu-img", "check", f"{detect}.qcow2")
