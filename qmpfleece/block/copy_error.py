"""What is raised when a copy fails: it says where, and on which side."""

from typing import Final

from qmpfleece.base.errors import BlockError, errno_of
from qmpfleece.block.reqlist import Req


class CopyError(BlockError):
    """A copy failed, with the errno of the request that did.

    Attributes:
        is_read: Reading the source failed, not writing the target.
        offset: Where, in bytes.
        length: How many bytes were to be copied.
    """

    def __init__(self, cause: OSError, req: Req, *, is_read: bool) -> None:
        super().__init__(errno_of(cause), cause.strerror or "")
        self.is_read: Final = is_read
        self.offset: Final = req.offset
        self.length: Final = req.length
