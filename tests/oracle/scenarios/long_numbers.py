"""Numbers of more digits than anybody needs, and of all forms that are taken."""

from typing import Final

from tests.oracle.scenario import long, scenario, system_scenario
from tests.oracle.scenarios.commandline import all_fail, fails
from tests.oracle.scenarios.devices import hmp
from tests.oracle.session import Session

#: Python reads no number this long unless it is told to.
LONG: Final = "1" * 4500
ZEROES: Final = "0" * 4500


def _taken(d: Session, kind: str, *values: str) -> None:
    """Start with options of a chardev, and end at a second one of the same id."""
    for value in values:
        fails(d, "--chardev", f"null,id=c,{kind}={value}", "--chardev", "zzz,id=d")


@long
@scenario
def numbers_of_chardevs(d: Session) -> None:
    _taken(
        d, "cols", LONG, ZEROES, f"{ZEROES}7", f"0x{LONG}", f"-{LONG}", "09", "08", "010",
        "-1", "+5", " 5", "5 ", "-18446744073709551615", "-18446744073709551616",
        "18446744073709551615", "18446744073709551616", "0x", "0xffffffffffffffff",
    )  # fmt: skip


@scenario
def sizes_of_chardevs(d: Session) -> None:
    _taken(
        d, "size", "abc", "1x", "1kk", "-1", "-0", "", "1k", "0x10", "1.5", "1.5k", "1.k", "1e2",
        " 1", "1 ", "+1", "1KB", "1.0b", "1.5b", ".5k", "15E", "16E", "17179869184G",
        "18446744073709551615", "18446744073709551616", LONG, f"{ZEROES}7k", f"1.{LONG}k",
    )  # fmt: skip
    fails(d, "--chardev", "socket,id=c,size=abc")


@long
@scenario
def numbers_of_nodes(d: Session) -> None:
    all_fail(
        d,
        "--blockdev",
        *(f"null-co,node-name=n,size={digits}" for digits in (LONG, f"-{LONG}", f"0x{LONG}")),
        *(f"null-co,node-name=n,size={ZEROES}{digits}" for digits in ("9", "x1")),
    )
    d.start("--blockdev", f"null-co,node-name=n,size={ZEROES}1000,read-zeroes=on")
    d.qmp("query-named-block-nodes", flat=True)


@long
@system_scenario
def long_numbers_at_the_monitor(d: Session) -> None:
    path = d.file("disk.raw", 1 << 20)
    d.start("-drive", f"if=none,id=d,file={path},format=raw")
    for size in (
        *(LONG, f"0x{LONG}", f"{ZEROES}7", f"{ZEROES}7k", f"1.{LONG}k", f"0.{LONG}"),
        *(f"1.{ZEROES}", f"{LONG}b", "0.1b", "1.9999999b", "1.0b", "0.50048828125k"),
        *("9223372036854775808b", "18446744073709551616b", "1.00000000001k", "0x1e"),
    ):
        hmp(d, f"block_resize d {size}")
        hmp(d, "qemu-io d length")
