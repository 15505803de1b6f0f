"""The order of the object tree."""

import random

from qmpfleece.control.qom_listing import hashed, unattached


def test_names_come_in_the_order_that_qemu_has_shown():
    assert hashed(["io", "tg", "pc.ram"]) == ["io", "tg", "pc.ram"]
    assert hashed(["hd", "scsi", "blk"]) == ["blk", "scsi", "hd"]
    assert hashed(["scsi", "hd", "blk"]) == ["blk", "hd", "scsi"]


def test_every_name_is_listed_once_however_many_there_are():
    generator = random.Random(7)
    for count in (0, 1, 7, 8, 9, 100, 3000):
        names = [f"{generator.random()}ä{number}" for number in range(count)]
        assert sorted(hashed(names)) == sorted(names)


def test_a_board_without_devices_has_what_every_machine_has():
    assert list(unattached([])) == ["sysbus", "system[0]", "io[0]"]
