"""NBD_CMD_TRIM: the client no longer needs this."""

from qmpfleece.block.accounting import UNMAP
from qmpfleece.exports.nbd.client import Client
from qmpfleece.exports.nbd.command import command
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.transmission import Request


@command(const.CMD_TRIM, "trim", "discard failed", writes=True, counts_as=UNMAP)
async def trim(client: Client, request: Request) -> None:
    """Discard, and with FUA make that stable."""
    client.looked_here += request.length
    client.accounting.begin(UNMAP, request.length)
    if request.length:
        await client.backend.pdiscard(request.offset, request.length)
    if request.flags & const.CMD_FLAG_FUA:
        await client.backend.flush()
    client.ok(request)
