"""NBD_CMD_FLUSH: make all acknowledged writes stable."""

from qmpfleece.block.accounting import FLUSH
from qmpfleece.exports.nbd.client import Client
from qmpfleece.exports.nbd.command import command
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.transmission import Request


@command(const.CMD_FLUSH, "flush", "flush failed", counts_as=FLUSH)
async def flush(client: Client, request: Request) -> None:
    """Flush all the way down; writes of other connections count too."""
    client.accounting.flush_operations += 1
    await client.backend.flush()
    client.ok(request)
