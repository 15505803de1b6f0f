"""What only a format knows of its image, in the human monitor's words."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from qmpfleece.qapi.order import ordered

HEADING: Final = "Format specific information:"


def lines(specific: Mapping[str, Any]) -> list[str]:
    """Return the lines below the heading, of QAPI ``ImageInfoSpecific``."""
    return _tree(specific.get("data", {}), 1)


def _tree(value: Any, depth: int) -> list[str]:
    """Print members, or items, one below the other."""
    if isinstance(value, dict):
        pairs: Iterable[tuple[str | int, Any]] = [(key, value[key]) for key in ordered(value)]
    else:
        pairs = enumerate(value)
    lines = []
    for key, item in pairs:
        label = f"[{key}]" if isinstance(key, int) else key.replace("-", " ")
        if isinstance(item, dict | list):
            lines += [f"{'    ' * depth}{label}:", *_tree(item, depth + 1)]
        else:
            shown = str(item).lower() if isinstance(item, bool) else item
            lines.append(f"{'    ' * depth}{label}: {shown}")
    return lines
