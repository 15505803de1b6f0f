"""Strings as QEMU's JSON parser reads them: escapes, and UTF-8 with its own idea of valid.

QEMU takes modified UTF-8 (a zero byte is C0 80) and refuses what Unicode calls no characters.
"""

import re
from typing import Final

from qmpfleece.base import utf8
from qmpfleece.base.errors import QmpError

_ESCAPES: Final = {
    ord('"'): '"',
    ord("'"): "'",
    ord("\\"): "\\",
    ord("/"): "/",
    ord("b"): "\b",
    ord("f"): "\f",
    ord("n"): "\n",
    ord("r"): "\r",
    ord("t"): "\t",
}
_BACKSLASH: Final = ord("\\")
_U: Final = ord("u")
_pieces = re.compile(rb"\\u[\x00-\xff]{0,4}|\\[\x00-\xff]|[^\\]+").finditer
_four_hex = re.compile(rb"\\u([0-9a-fA-F]{4})", re.ASCII).fullmatch


def _no_character(code: int) -> bool:
    return 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE


def decode(token: bytes) -> str:
    """Return the text of a string token.

    Args:
        token: The string with its quotes, as the lexer gives it.

    Raises:
        QmpError: A bad escape or bad UTF-8, the first one from the left.
    """
    body = token[1:-1]
    if body.isascii() and _BACKSLASH not in body:
        return body.decode("ascii")
    out: list[str] = []
    high = b""  # the first half of a surrogate pair
    for piece in _pieces(token, 1, len(token) - 1):
        text = piece[0]
        if text[0] == _BACKSLASH and text[1] == _U:
            high = _unicode_escape(token, piece.start(), high, out)
            continue
        if high:
            raise _bad_unicode(high)
        if text[0] != _BACKSLASH:
            out.append(_utf8(text))
        elif (plain := _ESCAPES.get(text[1])) is not None:
            out.append(plain)
        else:
            raise QmpError("JSON parse error, invalid escape sequence in string")
    if high:
        raise _bad_unicode(high)
    return "".join(out)


def _bad_unicode(escape: bytes) -> QmpError:
    return QmpError(f"JSON parse error, {show(escape)} is not a valid Unicode character")


def _unicode_escape(token: bytes, start: int, high: bytes, out: list[str]) -> bytes:
    r"""Take one ``\uXXXX``; return it if it is the first half of a pair."""
    escape = token[start : start + 6]
    digits = _four_hex(escape)
    if high and (first := _four_hex(high)):
        code = int(digits[1], 16) if digits else 0
        if not 0xDC00 <= code <= 0xDFFF:
            raise _bad_unicode(high)
        code = 0x10000 + ((int(first[1], 16) & 0x3FF) << 10) + (code & 0x3FF)
    elif digits is None:
        raise _bad_unicode(escape)
    else:
        code = int(digits[1], 16)
        if 0xD800 <= code <= 0xDBFF:
            return escape
    if 0xDC00 <= code <= 0xDFFF or _no_character(code):
        raise _bad_unicode(high + escape)
    out.append(chr(code))
    return b""


def _utf8(raw: bytes) -> str:
    try:
        return utf8.decode(raw)
    except UnicodeError:
        raise QmpError("JSON parse error, invalid UTF-8 sequence in string") from None


def show(raw: bytes) -> str:
    """Return bytes for an error text: up to the first zero, each bad sequence as U+FFFD."""
    return utf8.shown(raw.partition(b"\0")[0])
