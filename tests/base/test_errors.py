import errno

from qmpfleece.base.errors import BlockError, ErrorClass, QmpError, errno_of


def test_block_error_is_an_oserror_with_the_systems_text():
    error = BlockError(errno.ENOSPC)
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror) == (errno.ENOSPC, "No space left on device")
    assert BlockError(errno.EIO, "the operator's text").strerror == "the operator's text"


def test_errno_of_an_error_without_one_is_eio():
    assert errno_of(OSError("no number")) == errno.EIO
    assert errno_of(BlockError(errno.EPERM)) == errno.EPERM


def test_qmp_error_is_generic_unless_it_says_otherwise():
    assert QmpError("text").error_class == "GenericError"
    error = QmpError("text", ErrorClass.DEVICE_NOT_FOUND)
    assert (str(error), error.desc, error.error_class) == ("text", "text", "DeviceNotFound")
