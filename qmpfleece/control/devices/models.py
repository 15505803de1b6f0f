"""The device models: disks, and the controller whose bus they sit on.

A model lists the properties that QEMU 7.2 has, as nobody must be refused for giving them; most
are the business of a guest and have no effect here. These have: ``drive``, ``share-rw``,
``channel``, ``scsi-id``, ``lun``, and the sizes, which are checked against each other.
"""

from functools import cached_property
from typing import Any, Final

from qmpfleece.base.errors import ErrorClass, QmpError
from qmpfleece.control.devices.properties import Property

_ON_OFF: Final = "on/off"
_AUTO: Final = "on/off/auto"
_POLICY: Final = "Error handling policy, report/ignore/enospc/stop/auto"
_POWER: Final = "A power of two between 512 B and 2 MiB"
_SLOT: Final = "Slot and optional function number, example: 06.0 or 06"
_DRIVE: Final = "Node name or ID of a block device to use as a backend"
UNSET: Final = 0xFFFFFFFF


def _of(kind: str, description: str | None = None, /, **defaults: Any) -> list[Property]:
    """Return properties of one type; ``_`` in their names is theirs unless ``__`` (a ``-``)."""
    return [
        Property(name.replace("__", "-"), kind, default, description)
        for name, default in defaults.items()
    ]


_BLOCK: Final = [
    *_of("bool", share__rw=False),
    *_of("OnOffAuto", _AUTO, account__invalid="auto", write__cache="auto"),
    *_of("OnOffAuto", _AUTO, account__failed="auto", backend_defaults="auto"),
    *_of("str", serial=None),
    *_of("str", _DRIVE, drive=None),
    *_of("BlockdevOnError", _POLICY, werror="auto", rerror="auto"),
    *_of("size", min_io_size=0, opt_io_size=0, discard_granularity=UNSET),
    *_of("size", _POWER, physical_block_size=0, logical_block_size=0),
    *_of("int32", bootindex=None),
]
_GEOMETRY: Final = _of("uint32", lheads=0, lcyls=0, lsecs=0, secs=0, cyls=0, heads=0)
_SCSI: Final = [
    Property("scsi-id", "uint32", UNSET),
    Property("lun", "uint32", UNSET),
    *_of("uint32", channel=0),
    *_of("int32", scsi_version=5),
    *_of("str", ver=None, product=None, vendor=None, device_id=None),
    *_of("uint64", wwn=0, max_io_size=0x7FFFFFFF, port_wwn=0),
    *_of("bool", _ON_OFF, quirk_mode_page_vendor_specific_apple=False),
    *_of("uint16", port_index=0),
]
_IDE: Final = [
    *_of("uint32", unit=UNSET),
    *_of("str", model=None, ver=None),
    *_of("uint64", wwn=0),
]
_PCI: Final = [
    *_of("str", failover_pair_id=None, romfile=None),
    *_of("int32", _SLOT, addr=-1),
    *_of("uint32", romsize=UNSET, rombar=1, acpi__index=0, vectors=UNSET),
    *_of("OnOffAuto", _AUTO, disable__legacy="auto"),
    *_of("link<iothread>", iothread=None),
    *_of("bool", x__ignore__backend__features=False, disable__modern=False),
    *_of("bool", use__disabled__flag=True, x__disable__legacy__check=False, use__started=True),
    *_of("bool", _ON_OFF, x__pcie__lnksta__dllla=True, x__pcie__extcap__init=True),
    *_of("bool", _ON_OFF, multifunction=False, migrate__extra=True, ats=False, aer=False),
    *_of("bool", _ON_OFF, x__pcie__pm__init=True, x__pcie__flr__init=True),
    *_of("bool", _ON_OFF, x__pcie__lnkctl__init=True, x__ats__page__aligned=True),
    *_of("bool", _ON_OFF, page__per__vq=False, x__pcie__deverr__init=True),
    *_of("bool", _ON_OFF, virtio__pci__bus__master__bug__migration=False),
    *_of("bool", _ON_OFF, modern__pio__notify=False, x__disable__pcie=False, ioeventfd=True),
    *_of("bool", _ON_OFF, notify_on_empty=True, iommu_platform=False, any_layout=True),
    *_of("bool", _ON_OFF, queue_reset=True, packed=False, indirect_desc=True, event_idx=True),
]


class DeviceModel:
    """A type of device.

    Args:
        name: Its QOM type.
        bus: What kind of bus it sits on.
        properties: What can be given.
        inner: The QOM type of the device inside, which is the one that has the backend.
        offers: What kind of bus it has itself.
        has_drive: It is a disk.
        removable: Its medium can be changed.
        tray: It has a tray that must be open for that.
        writes: It writes to its medium, if that is not read-only.
        must_write: It takes no medium that is read-only.
        has_status: It tells its user whether an error has stopped it.
    """

    def __init__(
        self,
        name: str,
        bus: str,
        properties: tuple[Property, ...],
        *,
        inner: str = "",
        offers: str = "",
        has_drive: bool = True,
        removable: bool = False,
        tray: bool = False,
        writes: bool = True,
        must_write: bool = False,
        has_status: bool = True,
    ) -> None:
        self.name: Final = name
        self.bus: Final = bus
        self.properties: Final = properties
        self.inner: Final = inner
        self.offers: Final = offers
        self.has_drive: Final = has_drive
        self.removable: Final = removable
        self.tray: Final = tray
        self.writes: Final = writes
        self.must_write: Final = must_write
        self.has_status: Final = has_status

    @cached_property
    def by_name(self) -> dict[str, Property]:
        """The properties by their names."""
        return {item.name: item for item in self.properties}


_NOT_OF_FLOPPIES: Final = frozenset({"serial", "werror", "rerror", "bootindex"})
_SCSI_HD: Final = DeviceModel(
    "scsi-hd",
    "SCSI",
    (
        *_SCSI,
        *_BLOCK,
        *_GEOMETRY,
        *_of("bool", _ON_OFF, removable=False, dpofua=False),
        *_of("uint64", max_unmap_size=1 << 30),
        *_of("uint16", rotation_rate=0),
    ),
)
_SCSI_CD: Final = DeviceModel(
    "scsi-cd",
    "SCSI",
    (
        *_SCSI,
        *_BLOCK,
        *_of("bool", _ON_OFF, quirk_mode_sense_rom_use_dbd=False),
        *_of("bool", _ON_OFF, quirk_mode_page_truncated=False),
        *_of("bool", _ON_OFF, quirk_mode_page_apple_vendor=False),
    ),
    removable=True,
    tray=True,
    writes=False,
)
_IDE_HD: Final = DeviceModel(
    "ide-hd",
    "IDE",
    (
        *_IDE,
        *_BLOCK,
        *_GEOMETRY,
        *_of("uint16", rotation_rate=0),
        *_of(
            "BiosAtaTranslation",
            "Logical CHS translation algorithm, auto/none/lba/large/rechs",
            bios__chs__trans="auto",
        ),
    ),
    must_write=True,
)
_IDE_CD: Final = DeviceModel(
    "ide-cd", "IDE", (*_IDE, *_BLOCK), removable=True, tray=True, writes=False
)
_FLOPPY: Final = DeviceModel(
    "floppy",
    "floppy-bus",
    (
        *_of("uint32", unit=UNSET),
        *_of("FdcDriveType", "FDC drive type, 144/288/120/none/auto", drive__type="auto"),
        *(item for item in _BLOCK if item.name not in _NOT_OF_FLOPPIES),
    ),
    removable=True,
    has_status=False,
)
_VIRTIO_BLK: Final = DeviceModel(
    "virtio-blk-pci",
    "PCI",
    (
        *_PCI,
        *_BLOCK,
        *_GEOMETRY,
        *_of("uint32", **{"class": 0}, max__discard__sectors=4194303),
        *_of("uint32", max__write__zeroes__sectors=4194303),
        *_of("uint16", queue__size=256, num__queues=0xFFFF),
        *_of("bool", _ON_OFF, config__wce=True, scsi=False, discard=True, write__zeroes=True),
        *_of("bool", _ON_OFF, request__merging=True),
        *_of("bool", seg__max__adjust=True, report__discard__granularity=True),
        *_of("bool", x__enable__wce__if__config__wce=True),
    ),
    inner="virtio-blk-device",
)
_VIRTIO_SCSI: Final = DeviceModel(
    "virtio-scsi-pci",
    "PCI",
    (
        *_PCI,
        *_of("bool", _ON_OFF, hotplug=True, param_change=True),
        *_of("bool", seg_max_adjust=True),
        *_of("uint32", num_queues=UNSET, max_sectors=0xFFFF, virtqueue_size=256, cmd_per_lun=128),
    ),
    inner="virtio-scsi-device",
    offers="SCSI",
    has_drive=False,
)

#: The models by the names of their types.
MODELS: Final = {
    model.name: model
    for model in (_SCSI_HD, _SCSI_CD, _IDE_HD, _IDE_CD, _FLOPPY, _VIRTIO_BLK, _VIRTIO_SCSI)
}
#: Shorter names that users may say instead.
ALIASES: Final = {"virtio-blk": "virtio-blk-pci", "virtio-scsi": "virtio-scsi-pci"}


def find_model(driver: str) -> DeviceModel:
    """Return the model of that name.

    Raises:
        QmpError: There is none.
    """
    model = MODELS.get(ALIASES.get(driver, driver))
    if model is None:
        raise QmpError(f"'{driver}' is not a valid device model name")
    return model


def properties_of(typename: str) -> tuple[Property, ...]:
    """Return what devices of a type can be given. Source: QAPI ``device-list-properties``.

    Raises:
        QmpError: There is no such type.
    """
    model = MODELS.get(typename)
    if model is None:
        raise QmpError(f"Device '{typename}' not found", ErrorClass.DEVICE_NOT_FOUND)
    return model.properties
