"""file and host_device: an image in a file of the host, or a block device."""

from qmpfleece.block.drivers.file.create import BlockdevCreateOptionsFile
from qmpfleece.block.drivers.file.driver import File, HostDevice
from qmpfleece.block.drivers.file.options import FileOptions, HostDeviceOptions

__all__ = ["BlockdevCreateOptionsFile", "File", "FileOptions", "HostDevice", "HostDeviceOptions"]
