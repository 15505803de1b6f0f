"""NBD_OPT_SET_META_CONTEXT: choose what block status shall report."""

from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.option import Session, option
from qmpfleece.nbdproto.options.list_meta_context import select

_NAME = "set meta context"


@option(const.OPT_SET_META_CONTEXT, _NAME)
def set_meta_context(session: Session, data: bytes) -> None:
    """Choose by full names; each call replaces the choice before it, even when it fails."""
    session.contexts_of, session.contexts = None, ()
    if not session.structured:
        session.refuse(
            const.REP_ERR_INVALID,
            f"request option '{_NAME}' when structured reply is not negotiated",
        )
        return
    selected = select(session, data, _NAME, prefixes=False)
    if selected is None:
        return
    export, contexts, _ = selected
    for number, name in contexts:
        session.reply(const.REP_META_CONTEXT, codec.U32.pack(number) + codec.encode(name))
    session.contexts_of, session.contexts = export, contexts
    session.reply(const.REP_ACK)
