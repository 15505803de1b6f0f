"""Which QEMU we behave like, and what the server says first."""

from typing import Any, Final

from qmpfleece import __version__

#: The version of QEMU whose behaviour is offered: major, minor, micro.
QEMU: Final = (7, 2, 0)
#: QAPI ``VersionInfo.package``.
PACKAGE: Final = f"qmpfleece {__version__}"


def greeting() -> dict[str, Any]:
    """Return what the server says first to each client."""
    version = dict(zip(("major", "minor", "micro"), QEMU, strict=True))
    return {"QMP": {"version": {"qemu": version, "package": PACKAGE}, "capabilities": ["oob"]}}
