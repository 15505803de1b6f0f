"""NBD_CMD_WRITE_ZEROES: a range shall read as zeroes."""

from qmpfleece.block.accounting import WRITE
from qmpfleece.block.driver import ReqFlags
from qmpfleece.exports.nbd.client import Client
from qmpfleece.exports.nbd.command import command
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.transmission import Request


@command(
    const.CMD_WRITE_ZEROES,
    "write zeroes",
    "writing to file failed",
    flags=const.CMD_FLAG_NO_HOLE | const.CMD_FLAG_FAST_ZERO,
    writes=True,
    counts_as=WRITE,
)
async def write_zeroes(client: Client, request: Request) -> None:
    """Deallocate unless the client forbids it; with FAST_ZERO only if that is quick."""
    flags = ReqFlags.NONE
    if client.writethrough or request.flags & const.CMD_FLAG_FUA:
        flags |= ReqFlags.FUA
    if not request.flags & const.CMD_FLAG_NO_HOLE:
        flags |= ReqFlags.MAY_UNMAP
    if request.flags & const.CMD_FLAG_FAST_ZERO:
        flags |= ReqFlags.NO_FALLBACK
    client.looked_here += request.length
    client.accounting.begin(WRITE, request.length)
    if request.length:
        await client.backend.pwrite_zeroes(request.offset, request.length, flags)
    client.ok(request)
