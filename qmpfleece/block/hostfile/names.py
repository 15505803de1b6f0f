"""File names as users give them: a path, or ``PROTOCOL:`` and what that makes of the rest."""

from typing import Any

from qmpfleece.base.errors import QmpError
from qmpfleece.block.driver import DRIVERS


def file_definition(filename: str) -> dict[str, Any]:
    """Return the definition of the node that a file name means.

    Raises:
        QmpError: It names a protocol that there is not, or means nothing to it.
    """
    protocol, colon, rest = filename.partition(":")
    if not colon or "/" in protocol:
        return {"driver": "file", "filename": filename}
    if protocol == "file":
        return {"driver": "file", "filename": rest}
    found = DRIVERS[protocol].definition_of(rest) if protocol in DRIVERS else None
    if found is None:
        raise QmpError(f"Unknown protocol '{protocol}'")
    return found


def innermost_filename(definition: dict[str, Any]) -> str:
    """Return the path of the file that a definition, from a file name, leads to."""
    while "image" in definition:
        definition = definition["image"]
    path: str = definition["filename"]
    return path
