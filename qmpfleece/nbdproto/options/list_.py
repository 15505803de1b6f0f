"""NBD_OPT_LIST: which exports are there?"""

from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.option import Session, option


@option(const.OPT_LIST, "list", takes_data=False)
def list_(session: Session, _data: bytes) -> None:
    """Name all exports, oldest first, each with its description."""
    for export in session.directory.list_exports():
        text = codec.pack_string(export.name) + codec.encode(export.description or "")
        session.reply(const.REP_SERVER, text)
    session.reply(const.REP_ACK)
