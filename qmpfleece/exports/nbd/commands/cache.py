"""NBD_CMD_CACHE: the client will read this soon."""

from typing import Final

from qmpfleece.base.units import MIB
from qmpfleece.exports.nbd.client import Client
from qmpfleece.exports.nbd.command import command
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.transmission import Request

_STEP: Final = MIB


@command(const.CMD_CACHE, "cache", "caching data failed", payload=True)
async def cache(client: Client, request: Request) -> None:
    """Read and forget, so that the host's page cache has it."""
    offset, end = request.offset, request.offset + request.length
    if offset < end:
        scratch = client.scratch(min(_STEP, request.length))
        try:
            while offset < end:
                step = min(_STEP, end - offset)
                await client.backend.pread(offset, scratch.view[:step])
                offset += step
        finally:
            scratch.release()
    client.ok(request)
