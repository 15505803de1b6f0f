"""The protocol: what is wrong with a message in rare ways."""

from tests.oracle.scenario import scenario
from tests.oracle.session import Session


@scenario
def pairs_of_surrogates_that_are_no_characters(d: Session) -> None:
    """Both halves are named, where a lone half is named alone."""
    for escapes in (
        r"\udbff\udfff",
        r"\ud83f\udffe",
        r"\ud83f\udffd",
        r"\udfff",
        r"\ud800x",
        r"\ud800\ud800",
    ):
        d.until_sync(f'{{"execute": "query-version", "id": "{escapes}"}}\n'.encode() + b"\xff")


@scenario
def negotiation_out_of_band(d: Session) -> None:
    d.connect()
    d.raw('{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}')
    d.raw('{"exec-oob": "qmp_capabilities", "id": 1}')
    d.raw('{"exec-oob": "qmp_capabilities", "arguments": {"zzz": 1}, "id": 2}')
    d.raw('{"execute": "qmp_capabilities", "id": 3}')
