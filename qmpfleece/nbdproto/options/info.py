"""NBD_OPT_INFO: what is this export like?"""

import struct

from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.option import ExportInfo, Reader, Session, option


def describe(
    session: Session, data: bytes, name: str, *, entering: bool
) -> tuple[ExportInfo, set[int]] | None:
    """Answer INFO and GO up to, but without, the final ACK.

    Args:
        session: The handshake.
        data: The option's data.
        name: The option's name for messages.
        entering: The client means to enter; it is given the true minimum block size only
            when it asked for it, for else it may send anything.

    Returns:
        The export, and the NBD_INFO_* that the client has asked for; None when the option has
        been refused.
    """
    reader = Reader(data, name)
    export_name = reader.export_name()
    wanted = {reader.number(codec.U16) for _ in range(reader.number(codec.U16))}
    reader.end()
    export = session.directory.find_export(export_name)
    if export is None:
        session.refuse_unknown_export(export_name)
        return None
    if const.INFO_NAME in wanted:
        _info(session, const.INFO_NAME, codec.encode(export.name))
    if export.description is not None:
        _info(session, const.INFO_DESCRIPTION, codec.encode(export.description))
    minimum = export.min_block if not entering or const.INFO_BLOCK_SIZE in wanted else 1
    sizes = struct.pack(">3I", minimum, max(minimum, export.preferred_block), export.max_block)
    _info(session, const.INFO_BLOCK_SIZE, sizes)
    _info(
        session,
        const.INFO_EXPORT,
        codec.EXPORT.pack(export.size, session.flags_of(export)),
    )
    return export, wanted


def _info(session: Session, kind: int, data: bytes) -> None:
    session.reply(const.REP_INFO, codec.U16.pack(kind) + data)


@option(const.OPT_INFO, "info")
def info(session: Session, data: bytes) -> None:
    """Describe the export and stay in the handshake.

    A client that does not ask for the smallest block is told in the end that it has to, if
    that is not 1 byte.
    """
    described = describe(session, data, "info", entering=False)
    if described is None:
        return
    export, wanted = described
    if export.min_block > 1 and const.INFO_BLOCK_SIZE not in wanted:
        session.refuse(
            const.REP_ERR_BLOCK_SIZE_REQD, "request NBD_INFO_BLOCK_SIZE to use this export"
        )
        return
    session.reply(const.REP_ACK)
