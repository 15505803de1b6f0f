"""What ``--nbd-server`` takes. QAPI ``NbdServerOptions``."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from qmpfleece.exports.options import FdSocketAddress, InetSocketAddress, UnixSocketAddress
from qmpfleece.qapi.model import Model, Uint32


class InetAddress(InetSocketAddress):
    """QAPI ``InetSocketAddress``, as an arm of ``SocketAddress``."""

    type: Literal["inet"]


class UnixAddress(UnixSocketAddress):
    """QAPI ``UnixSocketAddress``, as an arm of ``SocketAddress``."""

    type: Literal["unix"]


class FdAddress(FdSocketAddress):
    """QAPI ``String``, as an arm of ``SocketAddress``."""

    type: Literal["fd"]


#: QAPI ``SocketAddress``, the arms that we have.
SocketAddress: TypeAlias = Annotated[
    InetAddress | UnixAddress | FdAddress, Field(discriminator="type")
]


class NbdServerOptions(Model):
    """QAPI ``NbdServerOptions``."""

    addr: SocketAddress
    tls_creds: str | None = None
    tls_authz: str | None = None
    max_connections: Uint32 | None = None
