"""What QEMU's ``qom-list`` shows besides what we keep, and in which order.

QEMU keeps the properties of an object, and those of each class, in hash tables of GLib, and lists
the table of the object last. So those of a type come in one order for ever, written down here;
what is made while the program runs comes where its name falls, which ``hashed`` works out.

Source: ``qom-list`` of QEMU 7.2.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from qmpfleece.base.ghash import HashTable


def hashed(names: Iterable[str]) -> list[str]:
    """Return names in the order in which QEMU lists them.

    Args:
        names: All different, in the order in which they came.
    """
    table = HashTable()
    for name in names:
        table.insert(name)
    return table.names()[::-1]


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split(", "))


#: What all machines have first.
_OF_MACHINES: Final = _names(
    """
    kernel string, dt-compatible string, boot BootConfiguration,
    memory MemorySizeConfiguration, initrd string,
    confidential-guest-support link<confidential-guest-support>, graphics bool, usb bool,
    firmware string, memory-encryption string, smp SMPConfiguration, dump-guest-core bool,
    phandle-start int, dumpdtb string, memory-backend link<memory-backend>, dtb string,
    mem-merge bool, append string, suppress-vmdesc bool
    """
)
#: What PCs have after that, and then.
_OF_PCS: Final = _names(
    """
    smm OnOffAuto, acpi OnOffAuto, pit OnOffAuto, pic OnOffAuto, x-oem-table-id string,
    bus-lock-ratelimit uint64_t, sgx-epc SgxEPC, x-oem-id string, max-fw-size size,
    default-bus-bypass-iommu bool, device-memory-region-size int, sata bool, vmport OnOffAuto,
    i8042 bool, hpet bool, smbios-entry-point-type str, max-ram-below-4g size, smbus bool,
    unattached child<container>, fw_cfg child<fw_cfg_io>, peripheral-anon child<container>,
    nvdimm bool, peripheral child<container>
    """
)
_OF_PCS_LATER: Final = _names(
    """
    nvdimm-persistence string, rtc_state link<isa-device>, smram link<memory-region>,
    cxl-fmw CXLFixedMemoryWindow, rtc-time struct tm, acpi-device link<hotplug-handler>,
    hmat bool, cxl bool, pcspk-audiodev str
    """
)
#: The properties of the machines with their types, children among them.
_MACHINES: Final = {
    "pc-i440fx-7.2-machine": (
        *_OF_MACHINES,
        *_OF_PCS,
        *_OF_PCS_LATER,
        "i440fx child<i440FX-pcihost>",
    ),
    "pc-q35-7.2-machine": (
        *_OF_MACHINES,
        *_OF_PCS,
        "q35 child<q35-pcihost>",
        *_OF_PCS_LATER,
    ),
    "none-machine": (
        *_OF_MACHINES,
        "peripheral-anon child<container>",
        "peripheral child<container>",
        "unattached child<container>",
    ),
}
#: What all devices have first, and those on a PCI bus after that.
_OF_DEVICES: Final = _names("type, parent_bus, realized, hotplugged, hotpluggable")
_OF_VIRTIO_PCI: Final = _names(
    """
    failover_pair_id, romfile, addr, romsize, x-pcie-lnksta-dllla, rombar, x-pcie-extcap-init,
    acpi-index, multifunction, legacy-addr, migrate-extra, ats, x-ignore-backend-features,
    x-pcie-pm-init, aer, x-pcie-flr-init, x-pcie-lnkctl-init, x-ats-page-aligned, page-per-vq,
    x-pcie-deverr-init, virtio-pci-bus-master-bug-migration, modern-pio-notify, x-disable-pcie,
    vectors, ioeventfd
    """
)
#: The properties of each type in their order.
LISTED: Final = {
    "iothread": _names(
        """
        type, thread-pool-min, aio-max-batch, thread-pool-max, poll-max-ns, poll-grow, poll-shrink
        """
    ),
    "secret": _names(
        """
        type, iv, keyid, loaded, format, file, data
        """
    ),
    "throttle-group": _names(
        """
        type, x-bps-write-max-length, x-iops-total-max-length, x-iops-size, limits, x-bps-total,
        x-iops-read-max-length, x-bps-write, x-iops-write-max-length, x-bps-read-max,
        x-iops-read-max, x-bps-total-max, x-bps-read-max-length, x-iops-read, x-bps-read,
        x-bps-write-max, x-iops-total-max, x-iops-total, x-iops-write, x-bps-total-max-length,
        x-iops-write-max
        """
    ),
    "scsi-hd": (
        *_OF_DEVICES,
        *_names(
            """
            scsi-id, lun, channel, lheads, lcyls, share-rw, account-invalid, lsecs, scsi_version,
            secs, removable, ver, max_unmap_size, cyls, serial, min_io_size, product,
            rotation_rate, heads, dpofua, drive, werror, wwn, vendor, rerror, write-cache,
            physical_block_size, max_io_size, quirk_mode_page_vendor_specific_apple, opt_io_size,
            logical_block_size, discard_granularity, port_wwn, port_index, account-failed,
            device_id, backend_defaults, bootindex
            """
        ),
    ),
    "scsi-cd": (
        *_OF_DEVICES,
        *_names(
            """
            scsi-id, lun, channel, account-invalid, quirk_mode_sense_rom_use_dbd, device_id,
            max_io_size, drive, serial, logical_block_size, ver, share-rw, write-cache,
            scsi_version, wwn, discard_granularity, backend_defaults, vendor,
            quirk_mode_page_truncated, quirk_mode_page_vendor_specific_apple, product,
            opt_io_size, rerror, quirk_mode_page_apple_vendor, min_io_size, account-failed,
            physical_block_size, port_wwn, port_index, werror, bootindex
            """
        ),
    ),
    "ide-hd": (
        *_OF_DEVICES,
        *_names(
            """
            unit, lsecs, account-invalid, model, lheads, rotation_rate, drive, serial,
            logical_block_size, ver, share-rw, write-cache, heads, wwn, discard_granularity,
            backend_defaults, cyls, lcyls, opt_io_size, rerror, bios-chs-trans, min_io_size,
            account-failed, physical_block_size, secs, werror, bootindex
            """
        ),
    ),
    "ide-cd": (
        *_OF_DEVICES,
        *_names(
            """
            unit, account-invalid, model, drive, serial, logical_block_size, ver, share-rw,
            write-cache, wwn, discard_granularity, backend_defaults, opt_io_size, rerror,
            min_io_size, account-failed, physical_block_size, werror, bootindex
            """
        ),
    ),
    "floppy": (
        *_OF_DEVICES,
        *_names(
            """
            drive-type, min_io_size, backend_defaults, account-invalid, share-rw, account-failed,
            logical_block_size, write-cache, opt_io_size, drive, unit, physical_block_size,
            discard_granularity
            """
        ),
    ),
    "virtio-blk-pci": (
        *_OF_DEVICES,
        *_OF_VIRTIO_PCI,
        *_names(
            """
            class, disable-legacy, disable-modern, msix-pba[0], notify_on_empty, share-rw, lcyls,
            queue-size, lsecs, heads, account-invalid, iothread, lheads, num-queues, cyls, secs,
            bus master container[0], virtio-backend, min_io_size, bootindex, config-wce,
            seg-max-adjust, drive, werror, virtio-pci-notify-virtio-blk[0],
            report-discard-granularity, msix-table[0], virtio-pci-isr-virtio-blk[0], rerror,
            write-cache, use-disabled-flag, x-disable-legacy-check, use-started, iommu_platform,
            physical_block_size, virtio-pci-common-virtio-blk[0], scsi, any_layout,
            virtio-pci-device-virtio-blk[0], opt_io_size, logical_block_size, bus master[0],
            virtio-bus, virtio-blk-pci-msix[0], max-discard-sectors, virtio-pci[0],
            virtio-pci-notify-pio-virtio-blk[0], discard, discard_granularity, request-merging,
            queue_reset, write-zeroes, max-write-zeroes-sectors, packed, account-failed,
            indirect_desc, event_idx, x-enable-wce-if-config-wce, backend_defaults, virtio-pci[1],
            serial
            """
        ),
    ),
    "virtio-blk-device": (
        *_OF_DEVICES,
        *_names(
            """
            queue_reset, use-disabled-flag, packed, iommu_platform, event_idx,
            x-disable-legacy-check, notify_on_empty, any_layout, use-started, indirect_desc,
            legacy-iothread, share-rw, lcyls, queue-size, lsecs, serial, account-invalid,
            iothread, lheads, num-queues, cyls, secs, heads, min_io_size, config-wce,
            seg-max-adjust, drive, werror, report-discard-granularity, rerror, write-cache,
            physical_block_size, scsi, opt_io_size, logical_block_size, max-discard-sectors,
            discard, discard_granularity, request-merging, write-zeroes, max-write-zeroes-sectors,
            account-failed, x-enable-wce-if-config-wce, backend_defaults, bootindex
            """
        ),
    ),
    "virtio-scsi-pci": (
        *_OF_DEVICES,
        *_OF_VIRTIO_PCI,
        *_names(
            """
            disable-legacy, disable-modern, notify_on_empty, msix-pba[0], virtio-scsi-pci-msix[0],
            iothread, seg_max_adjust, virtio-bus, param_change, max_sectors, virtio-backend,
            packed, virtio-pci-notify-virtio-scsi[0], num_queues, iommu_platform, virtqueue_size,
            use-disabled-flag, bus master container[0], virtio-pci-device-virtio-scsi[0],
            virtio-pci-isr-virtio-scsi[0], use-started, any_layout, x-disable-legacy-check,
            hotplug, virtio-pci-common-virtio-scsi[0], bus master[0], cmd_per_lun, virtio-pci[1],
            virtio-pci[0], queue_reset, msix-table[0], event_idx, indirect_desc,
            virtio-pci-notify-pio-virtio-scsi[0]
            """
        ),
    ),
    "virtio-scsi-device": (
        *_OF_DEVICES,
        *_names(
            """
            queue_reset, use-disabled-flag, packed, iommu_platform, event_idx,
            x-disable-legacy-check, notify_on_empty, any_layout, use-started, indirect_desc,
            seg_max_adjust, max_sectors, iothread, param_change, cmd_per_lun, num_queues,
            virtqueue_size, legacy-iothread, hotplug
            """
        ),
    ),
}

#: Lines of interrupts that have no device; the first come before the others.
_LINES: Final = {"i440FX": 28, "ICH9-LPC": 27}
_FIRST_LINES: Final = 24


def machine_properties(typename: str) -> dict[str, str]:
    """Return the types of a machine's properties by their names, children among them."""
    found = (item.partition(" ") for item in _MACHINES.get(typename, ()))
    return {name: kind for name, _, kind in found}


def sort(typename: str, names: Iterable[str]) -> list[str]:
    """Return the names of an object's properties in QEMU's order."""
    order = {name: at for at, name in enumerate(LISTED.get(typename, ()))}
    return sorted(names, key=lambda name: order.get(name, len(order)))


def inner_child(name: str) -> str:
    """Return the type of what a device has inside it; "" for other names."""
    if name.endswith("]"):
        return "memory-region"
    return "virtio-pci-bus" if name == "virtio-bus" else ""


def unattached(devices: Sequence[str]) -> dict[str, str]:
    """Return the types of all that a board is made of, as it came; by their names.

    Args:
        devices: The types of the devices, the oldest first.
    """
    memory = "memory-region"
    found = {"sysbus": "System", "system[0]": memory, "io[0]": memory}
    if not devices:
        return found
    lines = next((count for name, count in _LINES.items() if name in devices), 0)
    numbered = [(f"device[{number}]", kind) for number, kind in enumerate(devices)]
    # Source: chosen so that the order is QEMU's, for the boards without extras.
    timers = devices.index("hpet") if "hpet" in devices else len(devices)
    found |= dict(numbered[:2])
    found |= dict.fromkeys(("ram-below-4g[0]", "pc.bios[0]", "isa-bios[0]", "pc.rom[0]"), memory)
    found["pci[0]"] = memory
    found |= {f"non-qdev-gpio[{number}]": "irq" for number in range(_FIRST_LINES)}
    found |= dict(numbered[2:timers])
    found |= {"ioport80[0]": memory, "ioportF0[0]": memory}
    found |= {f"non-qdev-gpio[{number}]": "irq" for number in range(_FIRST_LINES, lines)}
    for name, kind in numbered[timers:]:
        found[name] = kind
        if kind == "piix3-ide":
            found |= {f"ide[{number}]": memory for number in range(4)}
    return found
