"""NBD URIs: ``nbd://HOST[:PORT]/NAME`` and ``nbd+unix:///NAME?socket=PATH``.

Source: NBD protocol, doc/uri.md.
"""

import os
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

DEFAULT_PORT: Final = 10809


class UriError(ValueError):
    """The text is no NBD URI that we can use; the message says why."""


@dataclass(frozen=True, slots=True)
class NbdUri:
    """Where an export is.

    Attributes:
        name: Of the export, may be empty.
        path: Of the unix socket, "" for TCP.
        host: Name or address, without brackets; "" for a unix socket.
        port: TCP port.
    """

    name: str = ""
    path: str = ""
    host: str = ""
    port: int = DEFAULT_PORT

    @property
    def where(self) -> str:
        """The server, for messages."""
        return self.path or f"{self.host}:{self.port}"

    def __str__(self) -> str:
        name = quote(self.name, errors="surrogateescape")
        if self.path:
            return f"nbd+unix:///{name}?socket={quote(os.fsencode(self.path), safe='/')}"
        host = quote(self.host, safe=":")
        if ":" in host:
            host = f"[{host}]"
        port = "" if self.port == DEFAULT_PORT else f":{self.port}"
        return f"nbd://{host}{port}/{name}"


def parse(text: str) -> NbdUri:
    """Return what a URI says.

    Raises:
        UriError: It is not an NBD URI, or asks for what we don't have (TLS, vsock).
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UriError(f"'{text}' is not an NBD URI: {error}") from error
    if parts.scheme in {"nbds", "nbds+unix"}:
        raise UriError(f"TLS is not supported: '{text}'")
    if parts.scheme not in {"nbd", "nbd+unix"}:
        raise UriError(f"'{text}' is not an NBD URI; it starts with nbd:// or nbd+unix://")
    if parts.fragment or parts.username:
        raise UriError(f"'{text}' is not an NBD URI: it has parts that NBD URIs have not")
    name = unquote(parts.path.removeprefix("/"), errors="surrogateescape")
    if parts.scheme == "nbd+unix":
        return NbdUri(name, path=_socket(parts, text))
    if parts.query:
        raise UriError(f"nbd:// takes no parameters: '{text}'")
    if not parts.hostname:
        raise UriError(f"nbd:// needs a host: '{text}'")
    return NbdUri(name, host=unquote(parts.hostname), port=DEFAULT_PORT if port is None else port)


def _socket(parts: SplitResult, text: str) -> str:
    if parts.netloc:
        raise UriError(f"nbd+unix:// takes no host, write nbd+unix:///NAME?socket=PATH: '{text}'")
    # In forms of the web a plus sign is a blank; here it is itself.
    encoded = parts.query.replace("+", "%2B")
    query = parse_qs(encoded, keep_blank_values=True, errors="surrogateescape")
    paths = query.pop("socket", [])
    if query:
        raise UriError(f"parameter '{next(iter(query))}' is not supported: '{text}'")
    if len(paths) != 1 or not paths[0]:
        raise UriError(f"nbd+unix:// needs ?socket=PATH: '{text}'")
    return paths[0]
