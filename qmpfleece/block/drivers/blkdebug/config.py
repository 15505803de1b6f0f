"""The config file of blkdebug: groups of ``name = "value"`` lines.

::

    [inject-error]
    event = "read_aio"
    errno = "28"

Source: QEMU's behaviour with such files, observed.
"""

import re
from typing import Any, Final

from qmpfleece.base.digits import c_number
from qmpfleece.base.errors import QmpError
from qmpfleece.base.names import well_formed
from qmpfleece.block.drivers.blkdebug.rules import (
    EVENTS,
    IO_TYPES,
    BlkdebugInjectErrorOptions,
    BlkdebugSetStateOptions,
)

#: What each group may hold: the kind of each parameter.
_GROUPS: Final[dict[str, dict[str, str]]] = {
    "inject-error": {
        "event": "event",
        "state": "number",
        "iotype": "iotype",
        "errno": "number",
        "sector": "number",
        "once": "bool",
        "immediately": "bool",
    },
    "set-state": {"event": "event", "state": "number", "new_state": "number"},
}
#: Begins a group with an id, or without; the end need not be there, the bracket as little.
_WITH_ID: Final = re.compile(r'\[\s*(\S{1,63}+)\s*"([^"]{1,63})', re.ASCII)
_WITHOUT_ID: Final = re.compile(r"\[([^\]]{1,63})")
_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")
_ASSIGNMENT: Final = re.compile(r'\s*(\S{1,63})(?:\s*=\s*"([^"]*))?')
_SWITCHES: Final = {"on": True, "yes": True, "true": True, "y": True} | dict.fromkeys(
    ("off", "no", "false", "n"), False
)
#: Longer files are no rules; nothing is read from them.
_MAX_BYTES: Final = 1 << 20

_Found = tuple[list[BlkdebugInjectErrorOptions], list[BlkdebugSetStateOptions]]


def read_config(path: str) -> _Found:
    """Read the rules in a file; runs on a thread.

    Raises:
        QmpError: It can't be read, or is no such file.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise QmpError(f"Could not read blkdebug config file: {why}") from error
    if len(text) > _MAX_BYTES:
        raise QmpError("Could not read blkdebug config file: File too large")
    return parse_config(text)


def parse_config(text: str) -> _Found:
    """Return the rules in the text of a config file.

    Raises:
        QmpError: Something in it is wrong.
    """
    groups: dict[str, list[dict[str, Any]]] = {name: [] for name in _GROUPS}
    ids: set[tuple[str, str]] = set()
    current: dict[str, Any] | None = None
    kinds: dict[str, str] = {}
    for line in _LINE.findall(text):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            kinds, current = _begin(line, groups, ids, current)
            continue
        match = _ASSIGNMENT.match(line)
        if current is None or match is None:
            raise QmpError("no group defined")
        name, value = match[1], match[2] or ""
        if name not in kinds:
            raise QmpError(f"Invalid parameter '{name}'")
        current[name] = _value(name, value, kinds[name])
    return (
        [BlkdebugInjectErrorOptions(**_checked(rule)) for rule in groups["inject-error"]],
        [
            BlkdebugSetStateOptions(**{"new_state": 0} | _checked(rule))
            for rule in groups["set-state"]
        ],
    )


def _begin(
    line: str,
    groups: dict[str, list[dict[str, Any]]],
    ids: set[tuple[str, str]],
    current: dict[str, Any] | None,
) -> tuple[dict[str, str], dict[str, Any]]:
    """Start the group of a line ``[name]`` or ``[name "id"]``."""
    found = _WITH_ID.match(line)
    label = found[2] if found is not None else None
    found = found or _WITHOUT_ID.match(line)
    if found is None and current is None:
        raise QmpError("no group defined")
    # An empty name is none, and then QEMU takes what follows for that of the group before.
    name = found[1] if found is not None else line[1:].split(maxsplit=1)[0]
    if name not in groups:
        raise QmpError(f"There is no option group '{name}'")
    if label is not None:
        if not well_formed(label):
            raise QmpError("Parameter 'id' expects an identifier")
        if (name, label) in ids:
            raise QmpError(f"Duplicate ID '{label}' for {name}")
        ids.add((name, label))
    rule: dict[str, Any] = {}
    groups[name].append(rule)
    return _GROUPS[name], rule


def _value(name: str, text: str, kind: str) -> Any:
    if kind == "bool":
        if text not in _SWITCHES:
            raise QmpError(f"Parameter '{name}' expects 'on' or 'off'")
        return _SWITCHES[text]
    if kind != "number":
        return text  # looked at when the whole file has been read
    number = c_number(text)
    if number is None:
        raise QmpError(f"Parameter '{name}' expects a number")
    if abs(number) >> 64:
        raise QmpError(f"Value '{text}' is too large for parameter '{name}'")
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)  # as C keeps it


def _checked(rule: dict[str, Any]) -> dict[str, Any]:
    """Check the words in a rule.

    Raises:
        QmpError: One is missing or unknown.
    """
    if "event" not in rule:
        raise QmpError("Missing event name for rule")
    for name, known in (("event", EVENTS), ("iotype", IO_TYPES)):
        if name in rule and rule[name] not in known:
            raise QmpError(f"invalid parameter value: {rule[name]}")
    return rule
