"""NBD_OPT_STRUCTURED_REPLY: replies may come in chunks from now on."""

from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.option import Session, option


@option(const.OPT_STRUCTURED_REPLY, "structured reply", takes_data=False)
def structured_reply(session: Session, _data: bytes) -> None:
    """Agree, once."""
    if session.structured:
        session.refuse(const.REP_ERR_INVALID, "structured reply already negotiated")
        return
    session.structured = True
    session.reply(const.REP_ACK)
