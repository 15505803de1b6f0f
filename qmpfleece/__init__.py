"""A storage daemon that speaks QMP as QEMU does and fleeces live disks over NBD."""

__version__ = "0.1.0"
