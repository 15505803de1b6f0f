"""The suites, one topic a file, each with its name ``SUITE``; found by scanning this folder."""

import importlib
import pkgutil

from benchmarks.model import Suite


def load() -> dict[str, Suite]:
    """Return all suites by name, in the order of their names."""
    suites: dict[str, Suite] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        suite: Suite = importlib.import_module(f"{__name__}.{info.name}").SUITE
        assert suite.name not in suites, suite.name
        suites[suite.name] = suite
    return suites
