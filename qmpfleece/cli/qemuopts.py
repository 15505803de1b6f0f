"""QEMU's older ``key=value,...`` syntax, which ``--chardev`` still takes: flat, with flags.

A lone ``server`` means ``server=on`` and a lone ``nowait`` means ``wait=off``. QEMU 7.2 calls
that deprecated but works; so do we, without the warning.

Source: QEMU's behaviour, observed on qemu-storage-daemon 7.2.
"""

import re
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.cli.keyval import split_value
from qmpfleece.control import objects

_SWITCH: Final = {
    **dict.fromkeys(("on", "yes", "true", "y"), True),
    **dict.fromkeys(("off", "no", "false", "n"), False),
}


def parse(text: str, implied: str | None, known: frozenset[str] | None) -> dict[str, str]:
    """Return the options in ``text``.

    Args:
        text: The argument of an option.
        implied: The key of a first value that stands without one; None: it is a flag, too.
        known: The keys that exist; None: any.

    Raises:
        QmpError: It is malformed; QEMU's words.
    """
    found: dict[str, str] = {}
    first = True
    while text:
        match = re.match(r"[^=,]*", text)
        assert match is not None
        key, rest = match.group(), text[match.end() :]
        if rest.startswith("="):
            value, text = split_value(rest[1:])
        elif first and implied is not None:
            value, text = split_value(text)
            key = implied
        else:
            text = rest[1:]
            key, value = (key[2:], "off") if key.startswith("no") else (key, "on")
        first = False
        if known is not None and key not in known:
            raise QmpError(f"Invalid parameter '{key}'")
        found[key] = value
    if "id" in found:
        check_id(found["id"])
    return found


def check_id(text: str) -> None:
    """Refuse what can't be an id.

    Raises:
        QmpError: QEMU's words.
    """
    try:
        objects.check_id(text)
    except QmpError as error:
        raise QmpError(
            f"{error.desc}\n"
            "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."
        ) from error


def switch(options: dict[str, str], key: str, *, default: bool) -> bool:
    """Return a boolean option.

    Raises:
        QmpError: Its value is neither on nor off.
    """
    if (value := options.get(key)) is None:
        return default
    if value not in _SWITCH:
        raise QmpError(f"Parameter '{key}' expects 'on' or 'off'")
    return _SWITCH[value]
