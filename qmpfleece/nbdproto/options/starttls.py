"""NBD_OPT_STARTTLS: this server has no credentials."""

from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.option import Session, option


@option(const.OPT_STARTTLS, "starttls", takes_data=False)
def starttls(session: Session, _data: bytes) -> None:
    """Refuse by policy; the client may go on in plain text."""
    session.refuse(const.REP_ERR_POLICY, "TLS not configured")
