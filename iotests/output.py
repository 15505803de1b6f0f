# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test prints: the text that is compared with its .out file, byte for byte.

Whatever differs from run to run is masked here, so that no test has to think of it.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

#: Where a test keeps its files; the runner makes it and removes it.
SCRATCH: Final = Path(os.environ.get("IOTESTS_SCRATCH", "."))
_PREFIX: Final = f"{SCRATCH}/{os.getpid()}-"


def scratch(name: str) -> str:
    """Name a file of this process below the test's directory; printed as TEST_DIR/PID-name."""
    return _PREFIX + name


def say(text: str = "") -> None:
    """Print a line of text, file names masked."""
    print(text.replace(_PREFIX, "TEST_DIR/PID-"), flush=True)


def log(message: Any, *, indent: int | None = None) -> None:
    """Print a JSON value with sorted keys: a command, a reply, an event or a result.

    Args:
        message: What to print; an event's timestamp is masked.
        indent: Spaces by which nested values are indented; None prints a single line.
    """
    if isinstance(message, dict) and "timestamp" in message:
        message = message | {"timestamp": {"microseconds": "USECS", "seconds": "SECS"}}
    say(json.dumps(message, sort_keys=True, indent=indent))


def log_command(request: dict[str, Any]) -> None:
    """Print a command: its name first, then its arguments, sorted and with `-` in all names.

    The few nested members that QAPI spells with `_` are printed with `-` too.
    """
    shown = {"execute": request["execute"]}
    if "arguments" in request:
        shown["arguments"] = _tidy(request["arguments"])
    say(json.dumps(shown))


def _tidy(value: Any) -> Any:
    """Sort members by name at every depth and hyphenate the names."""
    if isinstance(value, dict):
        return {key.replace("_", "-"): _tidy(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    return value


def heading(text: str) -> None:
    """Print the heading of a step, set off by empty lines."""
    say(f"\n--- {text} ---\n")
