"""NBD_OPT_ABORT: the client says goodbye."""

from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.option import Session, option


@option(const.OPT_ABORT, "abort")
def abort(session: Session, _data: bytes) -> None:
    """Acknowledge and close; data is ignored, as the client is gone anyway."""
    session.reply(const.REP_ACK)
    session.close("")
