"""What ``--object help`` and ``--object TYPE,help`` say.

Source: QEMU's behaviour, observed on qemu-storage-daemon 7.2.
"""

from qmpfleece.cli import keyval
from qmpfleece.control.objects import OBJECT_TYPES


def object_help(value: str) -> str:
    """Return the text that the argument of ``--object`` asks for, empty if it doesn't."""
    if "help" not in value and "?" not in value:
        return ""
    first, *others = value.split(",")
    if keyval.is_help(first):
        return _types()
    if not any(keyval.is_help(word) for word in others):
        return ""
    return help_of(first.removeprefix("qom-type="))


def help_of(name: str) -> str:
    """Return the properties that objects of a type have; the types, if there is none such."""
    asked = OBJECT_TYPES.get(name)
    if asked is None:
        return _types()
    options = sorted(
        f"  {name}=<{kind}>"
        for name, kind in asked.properties.items()
        if name not in asked.read_only
    )
    return "\n".join([f"{asked.qom_type} options:", *options])


def _types() -> str:
    return "\n".join(
        ["List of user creatable objects:", *(f"  {name}" for name in sorted(OBJECT_TYPES))]
    )
