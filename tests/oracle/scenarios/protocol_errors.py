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


@scenario
def sizes_in_members_of_wrong_type_and_out_of_range(d: Session) -> None:
    """What is no number is named by its whole path, what is none of that width by its name."""
    for value in (None, "7", True, 1.5, -1, {}, [], 1 << 63, 1 << 64, -1 << 64):
        bitmap = {"node": "n", "name": "b", "granularity": value}
        action = {"type": "block-dirty-bitmap-add", "data": bitmap}
        d.qmp("transaction", actions=[{"type": "abort", "data": {}}, action])
        d.qmp("block-dirty-bitmap-add", **bitmap)
        options = {"driver": "file", "filename": "", "size": value}
        d.qmp("blockdev-create", job_id="?", options=options)
        inet = {"host": "nowhere.invalid", "port": "", "to": value}
        d.qmp("nbd-server-start", addr={"type": "inet", "data": inet}, tls_creds="none")
