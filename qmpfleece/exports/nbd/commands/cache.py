"""NBD_CMD_CACHE: the client will read this soon."""

from qmpfleece.exports.nbd.client import Client
from qmpfleece.exports.nbd.command import command
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.transmission import Request


@command(const.CMD_CACHE, "cache", "caching data failed", payload=True)
async def cache(client: Client, request: Request) -> None:
    """Take note, and read nothing, so that I/O limits don't count it and no disk is waited for.

    Source: QEMU reads for it only to copy on read, which no node here does.
    """
    client.ok(request)
