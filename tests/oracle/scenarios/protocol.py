"""The QMP protocol itself: greeting, request object, ids, arguments, end."""

import json
import os

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.session import Session


@scenario
def greeting_and_capabilities(d: Session) -> None:
    d.raw('{"execute": "query-version"}')
    d.raw('{"execute": "no-such-command"}')
    d.raw('{"execute": "qmp_capabilities"}')
    d.raw('{"execute": "qmp_capabilities"}')
    d.raw('{"execute": "query-version"}')


@scenario
def capabilities_unknown(d: Session) -> None:
    d.raw('{"execute": "qmp_capabilities", "arguments": {"enable": ["zzz"]}}')
    d.raw('{"execute": "qmp_capabilities", "arguments": {"enable": "oob"}}')
    d.raw('{"execute": "qmp_capabilities", "arguments": {"enabled": []}}')
    d.raw('{"execute": "query-version"}')
    d.raw('{"execute": "qmp_capabilities", "arguments": {"enable": []}}')
    d.raw('{"execute": "query-version"}')


@scenario
def capabilities_oob(d: Session) -> None:
    d.raw('{"exec-oob": "query-version", "id": 1}')
    d.raw('{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}')
    d.raw('{"exec-oob": "query-version", "id": 2}')
    d.raw('{"exec-oob": "query-version"}')
    d.raw('{"exec-oob": "no-such-command", "id": 3}')
    d.raw('{"execute": "query-version", "exec-oob": "query-version"}')
    d.raw('{"execute": "query-version", "id": 4}')


@scenario
def errors_before_capabilities(d: Session) -> None:
    d.raw("[]")
    d.raw("{}")
    d.raw('{"execute": 1}')
    d.raw('{"execute": "blockdev-add", "arguments": 1}')
    d.raw("}")
    d.raw('{"exec-oob": "query-version"}')


@scenario
def oob_not_enabled(d: Session) -> None:
    d.until_sync('{"exec-oob": "query-version", "id": 1}')
    d.until_sync('{"exec-oob": "query-version"}')


@scenario
def ids_of_all_types(d: Session) -> None:
    for text in (
        "1",
        "-1",
        "0",
        "1.5",
        "1e3",
        "1E-7",
        "0.1",
        "100000000000000000000",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775808",
        "-9223372036854775809",
        '"text"',
        '""',
        "null",
        "true",
        "false",
        "[]",
        '[1, "two", [3], {"four": 4}]',
        "{}",
        '{"b": 1, "a": {"z": null, "y": false}}',
    ):
        d.until_sync(f'{{"execute": "query-jobs", "id": {text}}}')


@scenario
def id_of_objects_member_order(d: Session) -> None:
    members = ", ".join(f'"{chr(97 + i)}{i}": {i}' for i in range(26))
    d.until_sync(f'{{"execute": "query-jobs", "id": {{{members}}}}}')


@scenario
def unknown_commands(d: Session) -> None:
    for name in ("no-such-command", "", "QUERY-VERSION", "query_version", "a b", '\\"', "%s%n"):
        d.until_sync(f'{{"execute": "{name}"}}')


@scenario
def request_not_an_object(d: Session) -> None:
    for text in ("1", '"x"', "[]", "[1]", "null", "true", "1.5"):
        d.until_sync(text)


@scenario
def request_members(d: Session) -> None:
    for text in (
        "{}",
        '{"id": 5}',
        '{"id": 5, "zzz": 1}',
        '{"execute": "query-jobs", "zzz": 1}',
        '{"execute": "query-jobs", "zzz": 1, "id": 7}',
        '{"execute": "query-jobs", "yyy": 1, "zzz": 1, "id": 7}',
        '{"execute": 1}',
        '{"execute": null}',
        '{"execute": {}, "id": 1}',
        '{"execute": ["query-jobs"], "id": 1}',
        '{"exec-oob": 1, "id": 1}',
        '{"execute": "query-jobs", "exec-oob": "query-jobs", "id": 3}',
        '{"execute": "query-jobs", "arguments": {}}',
        '{"execute": "query-jobs", "arguments": null}',
        '{"execute": "query-jobs", "arguments": []}',
        '{"execute": "query-jobs", "arguments": 1, "id": 2}',
        '{"execute": "query-jobs", "arguments": "x"}',
        '{"execute": "query-jobs", "arguments": {"x": 1}}',
        '{"execute": "query-jobs", "arguments": {"x": {"y": 1}}}',
        '{"execute": "query-jobs", "arguments": {"b": 1, "a": 1}}',
        '{"arguments": {}}',
        '{"arguments": 1}',
    ):
        d.until_sync(text)


@scenario
def request_with_duplicate_members(d: Session) -> None:
    d.until_sync('{"execute": "query-jobs", "execute": "query-version"}')
    d.until_sync('{"execute": "query-jobs", "id": 1, "id": 2}')
    d.until_sync('{"execute": "blockdev-del", "arguments": {"node-name": "a", "node-name": "b"}}')


@scenario
def several_commands_in_one_write(d: Session) -> None:
    d.until_sync('{"execute": "query-jobs", "id": 1}{"execute": "query-jobs", "id": 2}')
    d.until_sync('{"execute": "zzz", "id": 1} {"execute": "query-jobs", "id": 2}\r\n\t{}')
    d.until_sync("".join(f'{{"execute": "query-jobs", "id": {i}}}' for i in range(40)))


@scenario
def one_command_in_pieces(d: Session) -> None:
    d.qmp("query-jobs")
    d.raw(*'{"execute": "query-jobs", "id": "b\\u00e9"}')
    d.raw('{"exec', 'ute": "query-', 'jobs"', "}")
    d.raw("{'execute':\r\n\t 'query-jobs' \n\n , 'id' :\n 1 }")


@scenario
def arguments_of_wrong_type(d: Session) -> None:
    for text in (
        '{"node-name": 1}',
        '{"node-name": null}',
        '{"node-name": true}',
        '{"node-name": []}',
        '{"node-name": {}}',
        '{"node-name": 1.5}',
        "{}",
        '{"node-name": "a", "zzz": 1}',
        '{"zzz": 1}',
        '{"node_name": "a"}',
    ):
        d.until_sync(f'{{"execute": "blockdev-del", "arguments": {text}}}')


@scenario
def arguments_missing(d: Session) -> None:
    for name in ("blockdev-del", "blockdev-add", "nbd-server-start", "block-export-add"):
        d.qmp(name)
        d.raw(f'{{"execute": "{name}", "arguments": {{}}}}')


@scenario
def arguments_integers(d: Session) -> None:
    for text in (
        "1.0",
        "1.5",
        "1e3",
        "-1",
        '"512"',
        "true",
        "null",
        "4294967295",
        "4294967296",
        "18446744073709551615",
        "18446744073709551616",
        "1e30",
    ):
        d.until_sync(
            '{"execute": "block-dirty-bitmap-add", "arguments": {"node": "n", "name": "b", '
            f'"granularity": {text}}}}}'
        )


@scenario
def quit_with_commands_behind_it(d: Session) -> None:
    d.qmp("query-jobs")
    d.raw('{"execute": "quit", "id": "last"}\n', command="quit")
    d.closed_by_daemon()
    d.exited()


@scenario
def quit_with_arguments(d: Session) -> None:
    d.qmp("quit", now=True)
    d.raw('{"execute": "quit", "arguments": {}}', command="quit")
    d.closed_by_daemon()
    d.exited()


@scenario
def terminated_by_signal(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="a")
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="a")
    d.kill()


@scenario
def commands_of_the_daemon(d: Session) -> None:
    for name in ("query-status", "stop", "cont"):
        d.qmp(name)


@scenario
def commands_without_arguments(d: Session) -> None:
    d.qmp("query-block")
    d.qmp("query-jobs")
    d.qmp("query-block-exports")
    d.qmp("query-named-block-nodes")
    d.qmp("query-named-block-nodes", flat=1)
    d.qmp("query-named-block-nodes", flat=True)
    d.qmp("query-named-block-nodes", zzz=True)


def _while_one_is_slow(d: Session, capabilities: str, *commands: str, replies: int) -> None:
    d.start("-blockdev", "null-co,node-name=n")
    d.raw(capabilities)
    slow = {"command-line": 'qemu-io n "sleep 300"'}
    first = json.dumps({"execute": "human-monitor-command", "arguments": slow, "id": "slow"})
    d.raw(first, *commands, replies=replies)


@system_scenario
def commands_out_of_band_overtake_others(d: Session) -> None:
    _while_one_is_slow(
        d,
        '{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}',
        '{"execute": "query-name", "id": "next"}',
        '{"exec-oob": "query-name", "id": "oob"}',
        '{"exec-oob": "none", "id": "none"}',
        '{"exec-oob": "query-name", "zzz": 1}',
        '{"exec-oob": "query-name", "execute": "query-name", "id": "both"}',
        replies=6,
    )


@system_scenario
def commands_out_of_band_that_are_not_enabled_take_turns(d: Session) -> None:
    _while_one_is_slow(
        d,
        '{"execute": "qmp_capabilities"}',
        '{"exec-oob": "query-name", "id": "oob"}',
        replies=2,
    )


@scenario
def names_in_no_encoding_are_printed(d: Session) -> None:
    """A character in the place of each sequence that is none."""
    pieces = (
        *(b"\xff", b"\x80\x80", b"\xe2\x82", b"\xe2\x82x", b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80"),
        *(
            b"\xc0\xaf",
            b"\xed\xa0\x80",
            b"\xf8\x88\x80\x80\x80",
            b"\xfc\x84\x80\x80\x80\x80",
            b"\xfe",
        ),
        *("\ufffe".encode(), "\ufdd0".encode(), "\U0001ffff".encode(), "\ufffd\xe9".encode()),
    )
    name = os.fsdecode(b"_".join(pieces))
    d.transcript.masks[name] = "NAME"
    d.start("--blockdev", f"file,node-name=f,filename={d.file(name)}")
    d.qmp("query-named-block-nodes", flat=True)
