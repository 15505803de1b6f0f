"""What exports are told on the wire. Source: QAPI, block-export.json."""

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field

from qmpfleece.qapi.bitmaps import BlockDirtyBitmapOrStr
from qmpfleece.qapi.events import Event
from qmpfleece.qapi.model import Model, Uint16

#: QAPI ``BlockExportRemoveMode``.
RemoveMode: TypeAlias = Literal["safe", "hard"]


class BlockExportOptions(Model):
    """What all kinds take. A kind's model narrows ``type`` to a literal."""

    model_config = ConfigDict(frozen=True)

    type: str
    id: str
    fixed_iothread: bool | None = None
    iothread: str | None = None
    node_name: str
    writable: bool | None = None
    writethrough: bool | None = None


class NbdExportOptions(BlockExportOptions):
    """QAPI ``BlockExportOptionsNbd``."""

    type: Literal["nbd"]
    name: str | None = None
    description: str | None = None
    bitmaps: list[BlockDirtyBitmapOrStr] | None = None
    allocation_depth: bool | None = None


#: QAPI union ``BlockExportOptions``; a new kind's model is one more arm.
AnyExportOptions: TypeAlias = NbdExportOptions


class NbdServerAddOptions(Model):
    """QAPI ``NbdServerAddOptions``."""

    name: str | None = None
    description: str | None = None
    device: str
    writable: bool | None = None
    bitmap: str | None = None


class BlockExportInfo(Model):
    """QAPI ``BlockExportInfo``."""

    id: str
    type: str
    node_name: str
    shutting_down: bool


class InetSocketAddress(Model):
    """QAPI ``InetSocketAddress``; ``port`` may be a service, "0" lets the system choose."""

    model_config = ConfigDict(frozen=True)

    host: str
    port: str
    numeric: bool | None = None
    to: Uint16 | None = None
    ipv4: bool | None = None
    ipv6: bool | None = None
    keep_alive: bool | None = None
    mptcp: bool | None = None


class UnixSocketAddress(Model):
    """QAPI ``UnixSocketAddress``."""

    model_config = ConfigDict(frozen=True)

    path: str
    abstract: bool | None = None
    tight: bool | None = None


class VsockSocketAddress(Model):
    """QAPI ``VsockSocketAddress``."""

    model_config = ConfigDict(frozen=True)

    cid: str
    port: str


class FdSocketAddress(Model):
    """QAPI ``String``: the number of an inherited descriptor, or a name that getfd gave."""

    model_config = ConfigDict(frozen=True)

    str_: str


class InetSocketAddressLegacy(Model):
    """An arm of QAPI ``SocketAddressLegacy``."""

    model_config = ConfigDict(frozen=True)

    type: Literal["inet"]
    data: InetSocketAddress


class UnixSocketAddressLegacy(Model):
    """An arm of QAPI ``SocketAddressLegacy``."""

    model_config = ConfigDict(frozen=True)

    type: Literal["unix"]
    data: UnixSocketAddress


class VsockSocketAddressLegacy(Model):
    """An arm of QAPI ``SocketAddressLegacy``."""

    model_config = ConfigDict(frozen=True)

    type: Literal["vsock"]
    data: VsockSocketAddress


class FdSocketAddressLegacy(Model):
    """An arm of QAPI ``SocketAddressLegacy``."""

    model_config = ConfigDict(frozen=True)

    type: Literal["fd"]
    data: FdSocketAddress


#: QAPI ``SocketAddressLegacy``.
SocketAddressLegacy: TypeAlias = Annotated[
    InetSocketAddressLegacy
    | UnixSocketAddressLegacy
    | VsockSocketAddressLegacy
    | FdSocketAddressLegacy,
    Field(discriminator="type"),
]
#: What the server listens on.
ListenAddress: TypeAlias = (
    InetSocketAddress | UnixSocketAddress | VsockSocketAddress | FdSocketAddress
)

#: Unlimited in QEMU 7.2; the number that came with 9.1 keeps a flood of clients harmless.
DEFAULT_MAX_CONNECTIONS = 100


class BlockExportDeleted(Event, name="BLOCK_EXPORT_DELETED"):
    """A block export is gone; its id may be used again."""

    id: str
