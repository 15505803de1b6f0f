"""Whether there is what writes and large replies are made with, asked without our own code."""

import ctypes
import os
import platform
import struct
from typing import Final

import pytest

_SETUP: Final = 425
#: struct io_uring_params, and where its features are.
_PARAMS_SIZE: Final = 120
_FEATURES_AT: Final = 20
#: Since Linux 6.0.
_FEAT_LINKED_FILE: Final = 1 << 12


def _is_there() -> bool:
    if platform.system() != "Linux" or len(os.sched_getaffinity(0)) < 2:
        return False
    params = ctypes.create_string_buffer(_PARAMS_SIZE)
    fd = ctypes.CDLL(None).syscall(_SETUP, 1, params)
    if fd < 0:
        return False
    os.close(fd)
    features: int = struct.unpack_from("I", params, _FEATURES_AT)[0]
    return bool(features & _FEAT_LINKED_FILE)


needs_uring = pytest.mark.skipif(
    not _is_there(), reason="needs io_uring, of Linux 6.1, and two processors"
)
