"""JSON as QEMU prints it: member order, separators, escapes, numbers.

Only ASCII leaves here; pretty mode indents by four spaces and opens empty objects and arrays,
too. Nesting costs no recursion, for a client may send an ``id`` that is 1024 levels deep.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from qmpfleece.base import utf8
from qmpfleece.qapi.order import is_brief, ordered

#: Ends a message. Source: QMP specification, 2.1.1.
CRLF: Final = b"\r\n"

_special = re.compile(r"[^ !#-\[\]-~]")
_ESCAPES: Final = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


class Printed(dict[str, Any]):
    """An object that remembers how it is printed; it must not be changed any more."""

    __slots__ = ("_text",)

    @property
    def text(self) -> str:
        """How it is printed on one line."""
        try:
            return self._text
        except AttributeError:
            self._text: str = encode(dict(self)).decode("ascii")
            return self._text


def encode(value: Any, *, pretty: bool = False) -> bytes:
    """Return ``value`` as QEMU prints it, without the line end.

    Args:
        value: None, booleans, numbers, strings, lists, and dicts with string keys.
        pretty: One member a line, indented.

    Raises:
        TypeError: Something else is in there; a bug of ours.
    """
    if not isinstance(value, dict | list | tuple):
        return _scalar(value).encode("ascii")
    out: list[str] = []
    closing: list[str] = []
    pending: list[Iterator[tuple[str, Any]]] = []
    indent = "\r\n" if pretty else ""
    separator = "," if pretty else ", "
    items = _open(value, out, closing)
    first = True
    plain = _SCALARS if pretty else _ON_ONE_LINE
    while True:
        for key, item in items:
            if not first:
                out.append(separator)
            if pretty:
                out.append(indent + "    " * len(closing))
            out.append(key)
            print_scalar = plain.get(type(item))
            if print_scalar is not None:
                out.append(print_scalar(item))
            elif isinstance(item, dict | list | tuple):
                pending.append(items)
                items = _open(item, out, closing)
                first = True
                break
            else:
                out.append(_scalar(item))
            first = False
        else:
            bracket = closing.pop()
            if pretty:
                out.append(indent + "    " * len(closing))
            out.append(bracket)
            if not pending:
                return "".join(out).encode("ascii")
            items = pending.pop()
            first = False


def _open(
    value: "dict[str, Any] | list[Any] | tuple[Any, ...]", out: list[str], closing: list[str]
) -> Iterator[tuple[str, Any]]:
    """Print the opening bracket; return what comes before each item, and the item."""
    if isinstance(value, dict):
        out.append("{")
        closing.append("}")
        keys = tuple(value)
        members = _members_of_brief(keys) if is_brief(keys) else _members(keys)
        return iter([(text, value[key]) for key, text in members])
    out.append("[")
    closing.append("]")
    return iter([("", item) for item in value])


def _members(keys: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return the names of members in their order, each with how it is printed."""
    return tuple((key, _string(key) + ": ") for key in ordered(keys))


_members_of_brief = lru_cache(maxsize=1024)(_members)


def _scalar(value: Any) -> str:
    for kind, print_scalar in _SCALARS.items():
        if isinstance(value, kind):
            return print_scalar(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _string(text: str) -> str:
    printed = encode_basestring_ascii(text)
    if len(printed) == len(text) + 2 and "\x7f" not in text:
        return printed  # nothing in it is special
    if not text.isascii():  # it may be the name of a file, in no encoding
        text = utf8.shown(text.encode("utf-8", "surrogateescape"))
    return f'"{_special.sub(_escape, text)}"'


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if short := _ESCAPES.get(char):
        return short
    code = ord(char)
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04X}\\u{0xDC00 + (code & 0x3FF):04X}"
    return f"\\u{code:04X}"


_SCALARS: Final[dict[type, Callable[[Any], str]]] = {
    str: _string,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "null",
    int: int.__repr__,
    float: lambda value: f"{value:.17g}",
}
#: What is printed in one go when there are no lines to indent.
_ON_ONE_LINE: Final = {**_SCALARS, Printed: lambda value: value.text}
