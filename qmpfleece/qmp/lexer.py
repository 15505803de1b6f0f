"""QEMU's JSON lexer: bytes in, tokens out, in pieces of any size. No I/O.

It is more lenient than JSON (single quotes) and recovers from errors as QEMU does: an error
ends the token including the byte at fault, then bytes are skipped up to the next structural
or control character, or one of the bytes FE and FF, which clients send to resynchronise.

Tokens that lie whole in a piece are found by one regular expression. A table steps through the
others byte by byte, and through everything that is wrong; where many bytes don't change the
state, they are skipped by one expression, too.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

from qmpfleece.base.units import MIB

#: The size of one token, and of all tokens of one value. Source: QEMU's behaviour.
MAX_TOKEN_BYTES: Final = 64 * MIB


class Stray(NamedTuple):
    """What could not become a token.

    Attributes:
        raw: The bytes up to and including the one at fault.
    """

    raw: bytes


class TooLong(NamedTuple):
    """A token has grown to ``MAX_TOKEN_BYTES`` without an end."""


#: One of ``{}[]:,``, a string with its quotes, a number, or a keyword.
Token: TypeAlias = bytes

#: A whole token and the space before it. A number or keyword is whole if the next byte says so.
#: (An exponent is not possessive as a group: Python before 3.11.5 then swallows half of one.)
_whole = re.compile(
    rb"[ \t\r\n]*+(?:"
    rb"([{}\[\]:,]"
    rb'|"(?:[^\x00-\x1f"\\\xfe\xff]|\\[^\x00-\x1f\xfe\xff])*+"'
    rb"|'(?:[^\x00-\x1f'\\\xfe\xff]|\\[^\x00-\x1f\xfe\xff])*+')"
    rb"|(-?(?:0|[1-9][0-9]*+(?:[eE][-+]?[0-9]++)?"
    rb"|(?:0|[1-9][0-9]*+)\.[0-9]++(?:[eE][-+]?[0-9]++)?)(?=[^0-9.eE])"
    rb"|[a-z]++(?=[^a-z]))"
    rb")"
).match

(
    _START,
    _RECOVER,
    _DOUBLE,
    _DOUBLE_ESCAPE,
    _SINGLE,
    _SINGLE_ESCAPE,
    _MINUS,
    _ZERO,
    _INTEGER,
    _POINT,
    _FRACTION,
    _E,
    _E_SIGN,
    _EXPONENT,
    _KEYWORD,
    _ERROR,  # the byte belongs to a token that is wrong
    _TAKEN,  # the byte is the last one of a token
    _ENDED,  # the token ended before the byte
) = range(18)

_DIGITS: Final = b"0123456789"
_STRUCTURAL: Final = b"{}[]:,"
_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz"
#: What a string may hold besides quotes and backslash.
_TEXT: Final = bytes(range(0x20, 0xFE))


def _row(otherwise: int, *rules: tuple[Iterable[int], int]) -> bytes:
    row = bytearray([otherwise]) * 256
    for chars, state in rules:
        for char in chars:
            row[char] = state
    return bytes(row)


_TABLE: Final = {
    _START: _row(
        _ERROR,
        (b" \t\r\n", _START),
        (b'"', _DOUBLE),
        (b"'", _SINGLE),
        (b"-", _MINUS),
        (b"0", _ZERO),
        (b"123456789", _INTEGER),
        (_LETTERS, _KEYWORD),
        (_STRUCTURAL, _TAKEN),
    ),
    _RECOVER: _row(
        _RECOVER,
        (bytes(range(0x20)) + b"\xfe\xff", _ENDED),
        (b"\t", _RECOVER),
        (_STRUCTURAL, _ENDED),
    ),
    _DOUBLE: _row(_ERROR, (_TEXT, _DOUBLE), (b"\\", _DOUBLE_ESCAPE), (b'"', _TAKEN)),
    _DOUBLE_ESCAPE: _row(_ERROR, (_TEXT, _DOUBLE)),
    _SINGLE: _row(_ERROR, (_TEXT, _SINGLE), (b"\\", _SINGLE_ESCAPE), (b"'", _TAKEN)),
    _SINGLE_ESCAPE: _row(_ERROR, (_TEXT, _SINGLE)),
    _MINUS: _row(_ERROR, (_DIGITS, _INTEGER), (b"0", _ZERO)),
    _ZERO: _row(_ENDED, (b".", _POINT), (_DIGITS, _ERROR)),  # no exponent after a bare 0
    _INTEGER: _row(_ENDED, (_DIGITS, _INTEGER), (b".", _POINT), (b"eE", _E)),
    _POINT: _row(_ERROR, (_DIGITS, _FRACTION)),
    _FRACTION: _row(_ENDED, (_DIGITS, _FRACTION), (b"eE", _E)),
    _E: _row(_ERROR, (_DIGITS, _EXPONENT), (b"+-", _E_SIGN)),
    _E_SIGN: _row(_ERROR, (_DIGITS, _EXPONENT)),
    _EXPONENT: _row(_ENDED, (_DIGITS, _EXPONENT)),
    _KEYWORD: _row(_ENDED, (_LETTERS, _KEYWORD)),
}
_digits: Final = re.compile(rb"[0-9]*+").match
#: What may come in a state without leaving it, as often as it likes.
_RUNS: Final = {
    _START: re.compile(rb"[ \t\r\n]*+").match,
    _RECOVER: re.compile(rb"[^\x00-\x08\x0a-\x1f{}\[\]:,\xfe\xff]*+").match,
    _DOUBLE: re.compile(rb'(?:[^\x00-\x1f"\\\xfe\xff]|\\[^\x00-\x1f\xfe\xff])*+').match,
    _SINGLE: re.compile(rb"(?:[^\x00-\x1f'\\\xfe\xff]|\\[^\x00-\x1f\xfe\xff])*+").match,
    _INTEGER: _digits,
    _FRACTION: _digits,
    _EXPONENT: _digits,
    _KEYWORD: re.compile(rb"[a-z]*+").match,
}


class Lexer:
    """Cuts a stream of bytes into tokens."""

    def __init__(self) -> None:
        self._state = _START
        self._partial = bytearray()

    def feed(self, data: bytes) -> Iterator[Token | Stray | TooLong]:
        """Yield the tokens that ``data`` completes; exhaust this before feeding more.

        A number or keyword at the end is kept until the byte after it has come.
        """
        position = 0
        end = len(data)
        while position < end:
            if self._state == _START:
                found = _whole(data, position)
                if found is not None:
                    position = found.end()
                    yield found[found.lastindex or 0]
                    continue
            position = self._skip_run(data, position)
            if len(self._partial) >= MAX_TOKEN_BYTES:
                self._become(_RECOVER)
                yield TooLong()
            elif position < end:
                token, position = self._step(data, position)
                if token is not None:
                    yield token

    def _become(self, state: int) -> None:
        self._state = state
        self._partial = bytearray()

    def _skip_run(self, data: bytes, position: int) -> int:
        """Take the bytes that don't change the state."""
        find = _RUNS.get(self._state)
        run = None if find is None else find(data, position)
        if run is None:
            return position
        if self._state > _RECOVER:
            self._partial += run[0]
        return run.end()

    def _step(self, data: bytes, position: int) -> tuple[Token | Stray | None, int]:
        """Take one byte; return the token it completes, and the next position."""
        byte = data[position]
        state = _TABLE[self._state][byte]
        if state == _ENDED:  # the byte is looked at again
            token = bytes(self._partial)
            self._become(_START)
            return token or None, position
        if state >= _ERROR:
            token = bytes(self._partial) + data[position : position + 1]
            self._become(_RECOVER if state == _ERROR else _START)
            return Stray(token) if state == _ERROR else token, position + 1
        if state > _RECOVER:
            self._partial.append(byte)
        self._state = state
        return None, position + 1
