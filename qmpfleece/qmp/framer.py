"""From bytes to JSON values, as QEMU does it: values end where their brackets balance.

Clients need not send lines: a value may span many of them, and one piece may bring many
values. Tokens are collected until no bracket is open, or one is closed that never was open,
and are parsed then. So an error inside a value is reported when the value ends, and one
malformed value costs no other. Pure: no I/O, no clock.

Limits, with QEMU's texts: 1024 open brackets, 2 Mi tokens and 64 MiB of them per value.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from qmpfleece.base.errors import QmpError
from qmpfleece.qmp.lexer import MAX_TOKEN_BYTES, Lexer, Stray, TooLong
from qmpfleece.qmp.strings import decode, show

MAX_TOKENS: Final = 2 << 20
MAX_DEPTH: Final = 1024

_KEYWORDS: Final[dict[bytes, Any]] = {b"true": True, b"false": False, b"null": None}
_QUOTES: Final = b"\"'"
_NUMBER: Final = b"-0123456789"


class Malformed(NamedTuple):
    """Input that is no JSON value.

    Attributes:
        desc: QEMU's text.
    """

    desc: str


class Framer:
    """Cuts a stream of bytes into JSON values."""

    def __init__(self) -> None:
        self._lexer: Final = Lexer()
        self._tokens: list[bytes] = []
        self._reset()

    def _reset(self) -> None:
        self._tokens = []
        self._bytes = 0
        self._braces = 0
        self._brackets = 0

    def feed(self, data: bytes) -> Iterator[Any]:
        """Yield each value, or ``Malformed``, that ``data`` completes.

        Exhaust the iterator before feeding more. Numbers are int within QEMU's 64 bits
        and float beyond them.
        """
        for token in self._lexer.feed(data):
            if isinstance(token, Stray):
                self._reset()
                yield Malformed(f"JSON parse error, stray '{show(token.raw)}'")
            elif isinstance(token, TooLong):
                self._reset()
                yield Malformed("JSON token size limit exceeded")
            elif self._collect(token):
                tokens = self._tokens
                exceeded = self._exceeded()
                self._reset()
                yield exceeded or _parsed(tokens)

    def _collect(self, token: bytes) -> bool:
        """Keep a token; tell whether the value ends here, well or not."""
        self._tokens.append(token)
        self._bytes += len(token)
        match token:
            case b"{":
                self._braces += 1
            case b"}":
                self._braces -= 1
            case b"[":
                self._brackets += 1
            case b"]":
                self._brackets -= 1
        depth = self._braces + self._brackets
        return (
            depth <= 0
            or self._braces < 0
            or self._brackets < 0
            or depth > MAX_DEPTH
            or self._bytes >= MAX_TOKEN_BYTES
            or len(self._tokens) > MAX_TOKENS
        )

    def _exceeded(self) -> Malformed | None:
        if self._bytes >= MAX_TOKEN_BYTES:
            return Malformed("JSON token size limit exceeded")
        if len(self._tokens) > MAX_TOKENS:
            return Malformed("JSON token count limit exceeded")
        if self._braces + self._brackets > MAX_DEPTH:
            return Malformed("JSON nesting depth limit exceeded")
        return None


def _parsed(tokens: list[bytes]) -> Any:
    try:
        return parse(tokens)
    except QmpError as error:
        return Malformed(error.desc)


def _error(text: str) -> QmpError:
    return QmpError(f"JSON parse error, {text}")


def parse(tokens: list[bytes]) -> Any:
    """Return the value of a balanced list of tokens. Nesting costs no recursion.

    Raises:
        QmpError: QEMU's text for the first error.
    """
    stream = iter(tokens)
    containers: list[Any] = []
    keys: list[str | None] = []  # of the object at the same depth; None while a key is read
    token = next(stream)
    while True:
        if token in {b"{", b"["}:
            containers.append({} if token == b"{" else [])
            keys.append(None)
            closing = b"}" if token == b"{" else b"]"
            token = next(stream, b"")
            if token != closing:
                continue
            value, token = _close(containers, keys), b""
        else:
            value = _scalar(token)
        while containers:
            token = _place(value, containers[-1], keys, stream)
            if token not in {b"}", b"]"}:
                break
            value = _close(containers, keys)
        else:
            return value


def _close(containers: list[Any], keys: list[str | None]) -> Any:
    keys.pop()
    return containers.pop()


def _place(value: Any, container: Any, keys: list[str | None], stream: Iterator[bytes]) -> bytes:
    """Put a value into its container; return the token that begins the next value.

    That is the closing bracket when the container is complete.
    """
    if isinstance(container, list):
        container.append(value)
        token = next(stream, b"")
        if token == b",":
            return _value_token(stream)
        if token != b"]":
            raise _error("expected separator in list")
        return token
    key = keys[-1]
    if key is None:
        if not isinstance(value, str):
            raise _error("key is not a string in object")
        if next(stream, b"") != b":":
            raise _error("missing : in object pair")
        keys[-1] = value
        return _value_token(stream)
    if key in container:
        raise _error("duplicate key")
    container[key] = value
    keys[-1] = None
    token = next(stream, b"")
    if token == b",":
        return _value_token(stream)
    if token != b"}":
        raise _error("expected separator in dict")
    return token


def _value_token(stream: Iterator[bytes]) -> bytes:
    token = next(stream, b"")
    if token in {b"}", b"]", b",", b":", b""}:
        raise _error("expecting value")
    return token


def _scalar(token: bytes) -> Any:
    first = token[:1]
    if not first or first in b"}],:":
        raise _error("expecting value")
    if first in _QUOTES:
        return decode(token)
    if first in _NUMBER:
        return _number(token)
    if token not in _KEYWORDS:
        raise _error(f"invalid keyword '{token.decode('ascii')}'")
    return _KEYWORDS[token]


def _number(token: bytes) -> int | float:
    if len(token) <= 20 and not any(mark in token for mark in b".eE"):
        value = int(token)
        if -(1 << 63) <= value < 1 << 64:
            return value
    return float(token)
