"""NBD_CMD_CACHE: the client will read this soon."""

from qmpfleece.exports.nbd.client import Client
from qmpfleece.exports.nbd.command import command
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.transmission import Request


@command(const.CMD_CACHE, "cache", "caching data failed", payload=True)
async def cache(client: Client, request: Request) -> None:
    """Take note, and read nothing, so that I/O limits don't count it and no disk is waited for.

    Differs: QEMU copies into an image what only its backing file has, if it is exported read-only,
    too.
    """
    client.ok(request)
