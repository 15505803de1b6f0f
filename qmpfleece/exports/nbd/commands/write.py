"""NBD_CMD_WRITE: the payload is written from where it was received."""

from qmpfleece.block.accounting import WRITE
from qmpfleece.block.driver import ReqFlags
from qmpfleece.exports.nbd.client import Client
from qmpfleece.exports.nbd.command import command
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.transmission import Request


@command(
    const.CMD_WRITE,
    "write",
    "writing to file failed",
    writes=True,
    payload=True,
    counts_as=WRITE,
)
async def write(client: Client, request: Request) -> None:
    """Write, and with FUA make it stable; no data is written, too, as who can't says so."""
    payload = request.payload
    assert payload is not None
    accounting = client.accounting
    accounting.wr_operations += 1
    accounting.wr_bytes += request.length
    fua = client.writethrough or request.flags & const.CMD_FLAG_FUA
    await client.backend.pwrite(request.offset, payload, ReqFlags.FUA if fua else ReqFlags.NONE)
    client.ok(request)
