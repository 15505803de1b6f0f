"""NBD_OPT_EXPORT_NAME: the oldest way in, which knows no errors."""

from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.option import Session, option


@option(const.OPT_EXPORT_NAME, "export name")
def export_name(session: Session, data: bytes) -> None:
    """Enter the export, or close the connection: there is no error reply."""
    # QEMU takes the name as a C string: what follows a NUL is not part of it.
    export = session.directory.find_export(codec.decode(data.split(b"\0", 1)[0]))
    if export is None:
        return session.close("export not found")
    session.send(codec.EXPORT.pack(export.size, session.flags_of(export)))
    if not session.no_zeroes:
        session.send(bytes(codec.EXPORT_ZEROES))
    return session.enter(export)
