import errno

import pytest

from qmpfleece.nbdproto import codec, const


@pytest.mark.parametrize(
    ("code", "wire"),
    [
        (errno.EPERM, 1),
        (errno.EROFS, 1),
        (errno.EIO, 5),
        (errno.ENOMEM, 12),
        (errno.ENOSPC, 28),
        (errno.EDQUOT, 28),
        (errno.EFBIG, 28),
        (errno.ENOTSUP, 95),
        (errno.EACCES, 22),
        (errno.ETIMEDOUT, 22),
    ],
)
def test_errors_go_on_the_wire(code, wire):
    assert codec.error_to_wire(code) == wire


def test_unknown_errors_from_the_wire_are_einval():
    assert codec.error_from_wire(4711) == errno.EINVAL
    assert codec.error_from_wire(const.ESHUTDOWN) == errno.ESHUTDOWN


def test_foreign_names_survive():
    assert codec.encode(codec.decode(b"\xff\xfea\xc3\xa9")) == b"\xff\xfea\xc3\xa9"
