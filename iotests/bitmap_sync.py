# SPDX-License-Identifier: GPL-2.0-or-later
"""Test 257: backups with a bitmap, in every mode, that succeed or fail midway or at the end.

A disk is written to four times; full reference backups between the writes say what the
backups under test must hold. A model says what the bitmap must hold after each step.
"""

import dataclasses
import itertools
from typing import Any, Final

from iotests.bitmap_model import CLUSTER, GROUPS, BitmapModel
from iotests.output import heading, log, say, scratch
from iotests.programs import DISK_SIZE, create, identical, qemu_img
from iotests.vm import VM

NODE: Final = "drive0"
BITMAP: Final = "bitmap0"
FILTER: Final = "backup-top"
CONTROLLER: Final = ("-device", "virtio-scsi,id=scsi0")

#: Fails the second read after the first flush; errno 5 is EIO.
FAIL_SECOND_READ: Final[dict[str, Any]] = {
    "set-state": [
        {"event": "flush_to_disk", "state": 1, "new_state": 2},
        {"event": "read_aio", "state": 2, "new_state": 3},
    ],
    "inject-error": [
        {"event": "read_aio", "errno": 5, "state": 3, "immediately": False, "once": True}
    ],
}


class MismatchError(Exception):
    """A bitmap or a backup does not hold what it must."""


@dataclasses.dataclass(frozen=True)
class Case:
    """How the first backup under test is made, and how it fails."""

    sync: str
    mode: str
    failure: str | None

    @property
    def title(self) -> str:
        """The case's heading."""
        how = f"with {self.failure} failure" if self.failure else "without failure"
        return f"\n=== Mode {self.sync}; Bitmap Sync {self.mode} {how} ==="

    @property
    def bitmap_follows(self) -> bool:
        """Whether the bitmap no longer lists what the first backup copied."""
        return self.mode == "always" or (self.mode == "on-success" and self.failure is None)


def cases() -> list[Case]:
    """Return all cases in order."""
    failures = ("simulated", "intermediate", None)
    modes = ("never", "on-success", "always")
    # With these two, a bitmap that stays as it was would have no effect: QEMU refuses it.
    whole = itertools.product(("full", "top"), modes[1:], failures)
    return [Case(*case) for case in [*itertools.product(("bitmap",), modes, failures), *whole]]


class Disk:
    """The disk `drive0` of a running program and what can be done to it."""

    def __init__(self, vm: VM, image: str) -> None:
        self.vm = vm
        self.image = image

    def attach(self, *, fail: bool = False) -> None:
        """Add the node.

        Args:
            fail: Put blkdebug below it, which fails a read once armed by a flush.
        """
        file: dict[str, Any] = {"driver": "file", "filename": self.image}
        if fail:
            file = {"driver": "blkdebug", "image": file, **FAIL_SECOND_READ}
        self.vm.command_log("blockdev-add", node_name=NODE, driver="qcow2", file=file)

    def add_bitmap(self) -> None:
        """Add the bitmap, empty and recording."""
        self.vm.command_log("block-dirty-bitmap-add", node=NODE, name=BITMAP, granularity=CLUSTER)

    def write(self, group: int, node: str = NODE) -> None:
        """Write a group of patterns through a node, and print all bitmaps."""
        heading(f"Write #{group}")
        for pattern in GROUPS[group]:
            say(pattern.command)
            log(self.vm.qemu_io(node, pattern.command))
        self.print_bitmaps()

    def print_bitmaps(self) -> None:
        """Print the bitmaps of all nodes."""
        log({"bitmaps": self.vm.bitmaps()}, indent=2)

    def check(self, name: str, expected: int) -> None:
        """Check how many clusters are dirty in a bitmap that records or will again.

        Args:
            name: The bitmap; empty for the successor that records during a job.
            expected: Clusters.

        Raises:
            MismatchError: There is no such bitmap, or it has more or fewer of them.
        """
        say(f"\n= Checking Bitmap {name or '(anonymous)'} =")
        found = [
            bitmap
            for bitmap in self.vm.bitmaps().get(NODE, [])
            if bitmap.get("name", "") == name and bitmap["recording"]
        ]
        have = sum(bitmap["count"] for bitmap in found) // CLUSTER
        text = f"expecting {expected} dirty sectors; have {have}."
        if len(found) != 1 or have != expected:
            raise MismatchError(text)
        say(f"{text} OK!")

    def add_target(self, node: str, path: str) -> None:
        """Create an image as a backup's target, as a client without files of its own would."""
        file_node = f"file_{path.rpartition('/')[2]}"
        file = {"driver": "file", "filename": path}
        self.create_image("bdc-file-job", file | {"size": 0})
        log(self.vm.command("blockdev-add", node_name=file_node, **file))
        self.create_image("bdc-fmt-job", {"driver": "qcow2", "file": file_node, "size": DISK_SIZE})
        log(self.vm.command("blockdev-add", node_name=node, driver="qcow2", file=file_node))

    def create_image(self, job: str, options: dict[str, Any]) -> None:
        """Run a blockdev-create job."""
        log(self.vm.command("blockdev-create", job_id=job, options=options))
        self.vm.run_job(job)

    def start_backup(self, job: str, target: str, **options: Any) -> None:
        """Start a backup that copies in a fixed order."""
        self.vm.command_log("blockdev-backup", **backup_arguments(job, target, **options))

    def reference_backup(self, number: int) -> None:
        """Copy the whole disk."""
        heading(f"Reference Backup #{number}")
        target, job = f"ref_target_{number}", f"ref_backup_{number}"
        self.add_target(target, reference_image(number))
        self.start_backup(job, target, sync="full")
        self.vm.run_job(job, auto_dismiss=True)

    def start_test_backup(self, number: int, sync: str, mode: str) -> str:
        """Start a backup under test, to be finalized by hand; return the job's id."""
        heading(f"Test Backup #{number}")
        target, job = f"backup_target_{number}", f"backup_{number}"
        self.add_target(target, tested_image(number))
        self.start_backup(
            job, target, sync=sync, bitmap=BITMAP, bitmap_mode=mode, auto_finalize=False
        )
        return job


def backup_arguments(job: str, target: str, **options: Any) -> dict[str, Any]:
    """Return what blockdev-backup takes; with one worker, the order of copies is fixed."""
    return {
        "job_id": job,
        "device": NODE,
        "target": target,
        "filter_node_name": FILTER,
        "x_perf": {"max-workers": 1},
        **options,
    }


def reference_image(number: int) -> str:
    """Name the image of a reference backup."""
    return scratch(f"fbackup{number}")


def tested_image(number: int) -> str:
    """Name the image of a backup under test."""
    return scratch(f"bsync{number}")


def run_case(case: Case) -> None:
    """Run one case, from an empty disk to the comparison of the backups."""
    say(case.title)
    heading("Preparing image & VM")
    image = scratch("img")
    create(image)
    with VM(*CONTROLLER) as vm:
        disk = Disk(vm, image)
        disk.attach(fail=case.failure == "intermediate")
        disk.write(0)
        disk.reference_backup(0)
        heading("Add Bitmap")
        disk.add_bitmap()
        model = BitmapModel(written=[0])
        write_and_check(disk, model, 1)
        disk.reference_backup(1)
        first_test_backup(disk, model, case)
        write_and_check(disk, model, 3)
        disk.reference_backup(2)
        second_test_backup(disk, model, case.mode)
        heading("Cleanup")
        vm.command_log("block-dirty-bitmap-remove", node=NODE, name=BITMAP)
        disk.print_bitmaps()
    heading("Verification")
    verify(case, image)
    say()


def write_and_check(disk: Disk, model: BitmapModel, group: int) -> None:
    """Write a group; the bitmap must record it."""
    disk.write(group)
    model.write(group)
    disk.check(BITMAP, len(model.dirty))


def first_test_backup(disk: Disk, model: BitmapModel, case: Case) -> None:
    """Run the backup that may fail; the guest writes when it has copied everything."""
    midway = case.failure == "intermediate"
    if midway:
        say()
        log(disk.vm.qemu_io(NODE, "flush"))
    job = disk.start_test_backup(1, case.sync, case.mode)
    model.begin_backup(case.sync)
    copied = model.copied_before_second_read() if midway else None

    def guest_writes() -> None:
        # The bitmap is frozen until the job's end; what is new goes to its successor.
        disk.write(2, FILTER)
        model.write(2)
        disk.check(BITMAP, len(model.dirty))
        disk.check("", len(model.successor or ()))
        say()

    disk.vm.run_job(
        job,
        auto_finalize=False,
        auto_dismiss=True,
        before_finalize=guest_writes,
        cancel=case.failure == "simulated",
    )
    model.end_backup(case.mode, success=case.failure is None, copied=copied)
    disk.print_bitmaps()
    disk.check(BITMAP, len(model.dirty))


def second_test_backup(disk: Disk, model: BitmapModel, mode: str) -> None:
    """Back up what the bitmap lists; this never fails."""
    job = disk.start_test_backup(2, "bitmap", mode)
    model.begin_backup("bitmap")
    disk.vm.run_job(job, auto_finalize=False, auto_dismiss=True)
    model.end_backup(mode, success=True)
    disk.print_bitmaps()
    disk.check(BITMAP, len(model.dirty))


def verify(case: Case, image: str) -> None:
    """Complete the backups with what they are based on and compare with the references."""
    if case.sync != "full":
        rebase(tested_image(1), reference_image(0))
    rebase(tested_image(2), tested_image(1) if case.bitmap_follows else reference_image(0))
    compare(tested_image(1), reference_image(1), same=case.failure != "intermediate")
    compare(tested_image(2), reference_image(2))
    compare(image, reference_image(2))


def rebase(overlay: str, base: str) -> None:
    """Make one image the backing file of another, whose data stays as it is."""
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay)


def compare(first: str, second: str, *, same: bool = True) -> None:
    """Compare two images.

    Raises:
        MismatchError: They are identical and should not be, or the other way round.
    """
    found = identical(first, second)
    outcome = "Identical" if found else "Mismatch"
    text = f'qemu_img compare "{first}" "{second}" ==> {outcome}'
    if found != same:
        raise MismatchError(text)
    say(f"{text}, OK!")


def refused(sync: str) -> list[dict[str, str]]:
    """Return the bitmap arguments that blockdev-backup must refuse with this sync mode."""
    useful: dict[str, set[str | None]] = {
        "incremental": {"on-success", None},
        "bitmap": {"on-success", "always", "never"},
        "full": {"on-success", "always"},
        "top": {"on-success", "always"},
        "none": set(),
    }
    needs_bitmap = sync in {"incremental", "bitmap"}
    modes = ("on-success", "always", "never", None)
    found = []
    for bitmap, mode in itertools.product((None, "bitmap404", BITMAP), modes):
        plain = bitmap is None and mode is None and not needs_bitmap
        if plain or (bitmap == BITMAP and mode in useful[sync]):
            continue
        named = {"bitmap": bitmap, "bitmap_mode": mode}
        found.append({name: value for name, value in named.items() if value is not None})
    return found


def run_refusals() -> None:
    """Try every combination of arguments that makes no sense."""
    say("\n=== API failure tests ===")
    heading("Preparing image & VM")
    image = scratch("img")
    create(image)
    with VM(*CONTROLLER) as vm:
        disk = Disk(vm, image)
        disk.attach()
        say()
        disk.add_target("backup_target", scratch("bsync0"))
        say()
        disk.add_bitmap()
        before = vm.bitmaps()
        say("\n-- Testing invalid QMP commands --\n")
        for sync in ("incremental", "bitmap", "full", "top", "none"):
            say(f"-- Sync mode {sync} tests --\n")
            for arguments in refused(sync):
                backup = backup_arguments("api_job", "backup_target", sync=sync, **arguments)
                vm.qmp_log("blockdev-backup", **backup)
                say()
        if vm.bitmaps() != before or vm.command("query-jobs"):
            raise MismatchError("a refused command left something behind")


def main() -> None:
    """Run all cases, then the refusals."""
    for case in cases():
        run_case(case)
    run_refusals()
