"""The two kinds of error: an I/O request failed, or a command was refused.

I/O failures are plain ``OSError`` with an errno; ``BlockError`` is ours to raise. A refused
command is one ``QmpError`` with QEMU's class and text. Each edge (NBD, QMP, command line)
maps them with one table; nothing in between translates.
"""

import enum
import errno
import os
from typing import Final


class ErrorClass(enum.StrEnum):
    """QAPI ``QapiErrorClass``."""

    GENERIC = "GenericError"
    COMMAND_NOT_FOUND = "CommandNotFound"
    DEVICE_NOT_ACTIVE = "DeviceNotActive"
    DEVICE_NOT_FOUND = "DeviceNotFound"
    KVM_MISSING_CAP = "KVMMissingCap"


class QmpError(Exception):
    """A command is refused; ``desc`` is the text that the client sees.

    Args:
        desc: QEMU's words where QEMU has words.
        error_class: The QAPI error class.
    """

    def __init__(self, desc: str, error_class: ErrorClass = ErrorClass.GENERIC) -> None:
        super().__init__(desc)
        self.desc: Final = desc
        self.error_class: Final = error_class


class BlockError(OSError):
    """An I/O request failed with the given errno.

    Args:
        code: A value of the ``errno`` module.
        detail: What the operator should read; the errno's text if empty.
    """

    def __init__(self, code: int, detail: str = "") -> None:
        super().__init__(code, detail or os.strerror(code))


def errno_of(error: OSError) -> int:
    """Return the errno of an ``OSError``, EIO when it carries none."""
    return error.errno or errno.EIO
