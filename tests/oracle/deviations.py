"""The intended differences to QEMU, as listed in schema/deviations.toml."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FILE: Final = Path(__file__).parents[2] / "schema" / "deviations.toml"


@dataclass(frozen=True)
class Deviation:
    """Where QEMU's transcript says ``qemu``, ours says ``ours``.

    Both may span lines. Every scenario listed must show the difference.
    """

    scenarios: tuple[str, ...]
    qemu: str
    ours: str
    reason: str


def load() -> list[Deviation]:
    """Read the list.

    Raises:
        KeyError: An entry lacks a member.
    """
    document = tomllib.loads(_FILE.read_text())
    return [
        Deviation(tuple(item["scenarios"]), item["qemu"], item["ours"], item["reason"])
        for item in document.get("deviation", [])
    ]


def apply(
    name: str, qemu: list[str], ours: list[str], listed: list[Deviation]
) -> tuple[list[str], list[str]]:
    """Change QEMU's transcript into what ours is meant to be.

    Returns:
        The changed transcript, and what is listed for this scenario and does not occur.
    """
    expected, actual = "\n".join(qemu), "\n".join(ours)
    stale = []
    for deviation in listed:
        if name not in deviation.scenarios:
            continue
        if deviation.qemu not in expected or deviation.ours not in actual:
            stale.append(f"listed difference does not occur: {deviation}")
        expected = expected.replace(deviation.qemu, deviation.ours)
    return expected.split("\n"), stale
