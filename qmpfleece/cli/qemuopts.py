"""QEMU's older ``key=value,...`` syntax, which ``--chardev`` still takes: flat, with flags.

A lone ``server`` means ``server=on`` and a lone ``nowait`` means ``wait=off``. QEMU 7.2 calls
that deprecated but works; so do we, without the warning.

Source: QEMU's behaviour, observed on qemu-storage-daemon 7.2.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.cli.keyval import is_help, split_value
from qmpfleece.cli.words import Informed
from qmpfleece.control import objects
from qmpfleece.control.option_text import number_of, size_of

_SWITCH: Final = {
    **dict.fromkeys(("on", "yes", "true", "y"), True),
    **dict.fromkeys(("off", "no", "false", "n"), False),
}


#: Kinds of values, as help shows them.
_SHOWN: Final = {"bool": "bool (on/off)", "number": "num"}


def parse(
    text: str, implied: str | None, known: Mapping[str, str] | None, name: str = ""
) -> dict[str, str]:
    """Return the options in ``text``.

    Args:
        text: The argument of an option.
        implied: The key of a first value that stands without one; None: it is a flag, too.
        known: The keys that exist, with the kinds of their values: ``str``, ``bool``,
            ``number``, ``size``; None: any key.
        name: What help calls these options; without it there is none.

    Raises:
        QmpError: It is malformed; QEMU's words.
        Informed: It asks for help.
    """
    pairs = list(_pairs(text, implied))
    ids = [value for key, value in pairs if key == "id" and value is not None]
    if ids:
        check_id(ids[0])
    found: dict[str, str] = {}
    for key, value in pairs:
        if value is not None:
            _check(key, value, known)
            found[key] = value
        elif name and known is not None and is_help(key):
            shown = (f"  {key}=<{_SHOWN.get(known[key], known[key])}>\n" for key in sorted(known))
            raise Informed("".join([f"{name} options:\n", *shown]), 1)
        else:
            flag, state = (key[2:], "off") if key.startswith("no") else (key, "on")
            _check(flag, state, known)
            found[flag] = state
    if ids:
        found["id"] = ids[0]  # of others the last value counts
    return found


def _pairs(text: str, implied: str | None) -> Iterator[tuple[str, str | None]]:
    """Yield keys with their values, None for a key that stands alone."""
    while text:
        match = re.match(r"[^=,]*", text)
        assert match is not None
        key, rest = match.group(), text[match.end() :]
        value: str | None = None
        if rest.startswith("="):
            value, text = split_value(rest[1:])
        elif implied is not None:
            key = implied
            value, text = split_value(text)
        else:
            text = rest[1:]
        yield key, value
        implied = None


def _check(key: str, value: str, known: Mapping[str, str] | None) -> None:
    """Refuse what is not known, or is of another kind.

    Raises:
        QmpError: QEMU's words.
    """
    if known is None or key == "id":
        return
    kind = known.get(key)
    if kind is None:
        raise QmpError(f"Invalid parameter '{key}'")
    if kind == "bool" and value not in _SWITCH:
        raise QmpError(f"Parameter '{key}' expects 'on' or 'off'")
    if kind == "number":
        number_of(key, value)
    if kind == "size":
        size_of(key, value)


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


def switch(options: Mapping[str, str], key: str, *, default: bool) -> bool:
    """Return a boolean option.

    Raises:
        QmpError: Its value is neither on nor off.
    """
    if (value := options.get(key)) is None:
        return default
    if value not in _SWITCH:
        raise QmpError(f"Parameter '{key}' expects 'on' or 'off'")
    return _SWITCH[value]
