"""NBD_OPT_LIST_META_CONTEXT: what can block status report?"""

from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.option import ExportInfo, Reader, Session, option

Contexts = tuple[tuple[int, str], ...]


def select(
    session: Session, data: bytes, name: str, *, prefixes: bool
) -> tuple[ExportInfo, Contexts, bool] | None:
    """Do what LIST and SET have in common.

    A query asks for a context by its name: for the first one, as bitmaps of several nodes may
    have one name.

    Args:
        session: The handshake.
        data: The option's data.
        name: The option's name for messages.
        prefixes: A query may also be what names begin with.

    Returns:
        The export, its matching contexts in listing order, and whether there was any query;
        or None when the option has been refused.
    """
    reader = Reader(data, name)
    export_name = reader.export_name()
    export = session.directory.find_export(export_name)
    if export is None:
        session.refuse_unknown_export(export_name)
        return None
    queries = [reader.query() for _ in range(reader.number(codec.U32))]
    if not reader.ended:
        # QEMU takes what is left for the next option and finds no magic there.
        session.close("Bad magic received")
    asked = set(queries)
    first = {context: number for number, context in reversed(export.contexts)}
    selected = tuple(
        (number, context)
        for number, context in export.contexts
        if (context in asked and number == first[context])
        or (prefixes and _begins_as(context, asked))
    )
    return export, selected, bool(queries)


def _begins_as(context: str, asked: set[str]) -> bool:
    """Tell whether a query is a leading part of a context's name that ends in a colon.

    Colons in a bitmap's name end no such part.
    """
    parts = context.split(":", 2)
    return not asked.isdisjoint(":".join(parts[:n]) + ":" for n in range(1, len(parts)))


@option(const.OPT_LIST_META_CONTEXT, "list meta context")
def list_meta_context(session: Session, data: bytes) -> None:
    """List the contexts asked for, all when nothing is asked. Ids mean nothing here: 0."""
    selected = select(session, data, "list meta context", prefixes=True)
    if selected is None:
        return
    export, contexts, any_query = selected
    for _, name in contexts if any_query else export.contexts:
        session.reply(const.REP_META_CONTEXT, codec.U32.pack(0) + codec.encode(name))
    session.reply(const.REP_ACK)
