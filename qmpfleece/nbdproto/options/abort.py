"""NBD_OPT_ABORT: the client says goodbye."""

from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.option import Session, option


@option(const.OPT_ABORT, "abort")
def abort(session: Session, _data: bytes) -> None:
    """Acknowledge and close; its data is not waited for."""
    session.reply(const.REP_ACK)
    session.close("")
