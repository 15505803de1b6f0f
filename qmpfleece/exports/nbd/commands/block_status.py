"""NBD_CMD_BLOCK_STATUS: what the chosen metadata contexts say about a range."""

import errno

from qmpfleece.exports.nbd.client import Client
from qmpfleece.exports.nbd.command import command
from qmpfleece.exports.nbd.context import MAX_EXTENTS
from qmpfleece.nbdproto import const, extents
from qmpfleece.nbdproto.transmission import Request


@command(
    const.CMD_BLOCK_STATUS,
    "block status",
    "can't get block status",
    flags=const.CMD_FLAG_REQ_ONE,
)
async def block_status(client: Client, request: Request) -> None:
    """Answer with one chunk per context; with REQ_ONE each has one extent."""
    if not request.length:
        client.fail(request, errno.EINVAL, "need non-zero length")
        return
    if not client.contexts:
        client.fail(request, errno.EINVAL, "CMD_BLOCK_STATUS not negotiated")
        return
    client.looked_here += request.length
    limit = 1 if request.flags & const.CMD_FLAG_REQ_ONE else MAX_EXTENTS
    found = [
        (number, await context.extents(request.offset, request.length, limit))
        for number, context in client.contexts
    ]
    # All at once: chunks of an error and of extents must not mix.
    last = len(found) - 1
    for index, (number, status) in enumerate(found):
        flags = const.REPLY_FLAG_DONE if index == last else 0
        client.out.append(extents.pack_block_status(request.cookie, number, status, flags))
