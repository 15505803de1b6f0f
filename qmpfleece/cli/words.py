"""What people read: complaints, and numbers with their units."""

import sys
from typing import Final

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size_text(size: float) -> str:
    """Return a number of bytes in words: ``512 B``, ``1.5 MiB``, ``230 GiB``."""
    if size < 1024:
        return f"{size:.0f} B"
    unit = -1
    while size >= 1023.5 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.0f} {_UNITS[unit]}" if size >= 99.95 else f"{size:.1f} {_UNITS[unit]}"


def time_text(seconds: float) -> str:
    """Return a duration: ``0.4 s``, ``12 s``, ``3:05``, ``2:00:09``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"


class Informed(Exception):  # noqa: N818 - no error: what was asked for has been told
    """An option asks for a text, and for nothing else.

    Args:
        text: What is printed, each line ended.
        status: The exit status.
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__()
        self.text: Final = text
        self.status: Final = status


def complain(program: str, text: str) -> None:
    """Write a line to stderr."""
    print(f"{program}: {text}", file=sys.stderr, flush=True)
