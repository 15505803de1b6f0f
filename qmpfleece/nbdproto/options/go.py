"""NBD_OPT_GO: describe the export and enter it."""

from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.option import Session, option
from qmpfleece.nbdproto.options.info import describe


@option(const.OPT_GO, "go")
def go(session: Session, data: bytes) -> None:
    """Enter the export; a refusal leaves the client in the handshake."""
    described = describe(session, data, "go", entering=True)
    if described is not None:
        session.reply(const.REP_ACK)
        session.enter(described[0])
