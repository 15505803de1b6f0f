"""UTF-8 with QEMU's idea of valid: what Unicode calls no characters are none.

A zero is two bytes in it, so that it ends no string.
"""

import re
from typing import Final

#: What is shown in the place of a sequence that is no character.
REPLACEMENT: Final = "\ufffd"

#: One sequence by what its first byte promises, as far as it goes on.
_sequences = re.compile(
    rb"[\xc0-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xf7][\x80-\xbf]{0,3}"
    rb"|[\xf8-\xfb][\x80-\xbf]{0,4}|[\xfc-\xfd][\x80-\xbf]{0,5}|[\x00-\x7f]+|[\x80-\xff]"
).findall
_has_no_character = re.compile(
    "[\ufdd0-\ufdef"
    + "".join(chr(p | 0xFFFE) + chr(p | 0xFFFF) for p in range(0, 0x110000, 0x10000))
    + "]"
).search


def decode(raw: bytes) -> str:
    """Return the text of bytes; a zero may be two bytes.

    Raises:
        UnicodeError: They are not valid.
    """
    if raw.isascii():
        return raw.decode("ascii")
    text = raw.replace(b"\xc0\x80", b"\x00").decode("utf-8")
    if _has_no_character(text):
        raise UnicodeError("no character")
    return text


def pack(text: str) -> bytes:
    """Return the bytes of a text as QEMU keeps it; see ``unpack``."""
    return text.encode("utf-8", "surrogateescape").replace(b"\0", b"\xc0\x80")


def unpack(raw: bytes) -> str:
    """Return the text of any bytes; what is not valid becomes lone surrogates, for ``pack``."""
    return raw.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogateescape")


def shown(raw: bytes) -> str:
    """Return the text of any bytes, each bad sequence as U+FFFD."""
    text = []
    for sequence in _sequences(raw):
        try:
            text.append(decode(sequence))
        except UnicodeError:
            text.append(REPLACEMENT)
    return "".join(text)
