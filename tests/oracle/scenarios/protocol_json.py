"""JSON as QEMU reads it: tokens, strings, how deep, how long, and where it begins anew."""

from tests.oracle.scenario import scenario
from tests.oracle.session import Session


@scenario
def id_with_strings_to_escape(d: Session) -> None:
    for text in (
        r'"\" \\ \/ \b \f \n \r \t"',
        r'"\u0041\u00e9\u20ac"',
        r'"\ud834\udd1e"',
        r'"\u007f\u0080\u0001"',
        r'"\ufffe\uffff"',
        '"\u00e9\u20ac\U0001d11e"',
        "'single \" quoted'",
        r"'it\'s'",
        r'"it\'s"',
    ):
        d.until_sync(f'{{"execute": "query-jobs", "id": {text}}}')


@scenario
def members_with_long_names_in_qemus_order(d: Session) -> None:
    """The order comes from all bytes of a name."""
    for length in (1, 23, 24, 25, 48, 300):
        names = [f"{letter * length}{number}" for number, letter in enumerate("xyz\u00e9\u20ac")]
        members = ", ".join(f'"{name}": {number}' for number, name in enumerate(names))
        d.until_sync(f'{{"execute": "query-jobs", "id": {{{members}}}}}')


@scenario
def strings_with_bad_escapes(d: Session) -> None:
    for text in (
        r'"\x"',
        r'"\u00"',
        r'"\u12g4"',
        r'"\u0000"',
        r'"\ud834"',
        r'"\udd1e"',
        r'"\ud834\u0041"',
    ):
        d.until_sync(f'{{"execute": "query-jobs", "id": {text}}}')


@scenario
def strings_with_bad_utf8(d: Session) -> None:
    for text in (b"\x80", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xfe"):
        d.until_sync(b'{"execute": "query-jobs", "id": "' + text + b'"}')


@scenario
def strings_with_control_characters(d: Session) -> None:
    d.until_sync(b'{"execute": "query-jobs", "id": "a\tb"}')
    d.until_sync(b'{"execute": "query-jobs", "id": "a\x01b"}')
    d.until_sync(b'{"execute": "query-jobs", "id": "a\nb"}\xff')
    d.until_sync(b'{"execute": "query-jobs", "id": "a\x00b"}\xff')


@scenario
def malformed_tokens(d: Session) -> None:
    for text in (
        "zzz",
        "nul",
        "truefalse",
        "True",
        "NaN",
        "Infinity",
        "-",
        "+1",
        "01",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x10",
        "--1",
        "#",
        "/* comment */",
        "@",
        "\\",
        "`",
        "%s",
        "%(x)",
        "!",
    ):
        d.until_sync(text)


@scenario
def malformed_structure(d: Session) -> None:
    for text in (
        "}",
        "]",
        ":",
        ",",
        "{]",
        "[}",
        "{,}",
        "[,]",
        "[1,]",
        "[1 2]",
        '{"a"}',
        '{"a":}',
        '{"a" 1}',
        '{"a": 1,}',
        '{"a": 1 "b": 2}',
        '{"a": 1, 2}',
        "{1: 2}",
        "{a: 1}",
        "{null: 1}",
        "{[]: 1}",
        '{"execute": query-jobs}',
        '{"execute": "query-jobs",, "id": 1}',
        '{"execute": "query-jobs", "id": }',
        "[[[}]]",
        '{"execute": "query-jobs"}}',
        '{"execute": "query-jobs"}]',
        '{{"execute": "query-jobs"}}',
    ):
        d.until_sync(text)


@scenario
def malformed_unfinished(d: Session) -> None:
    for data in (b"{", b"[", b'{"execute"', b'{"execute": ', b'"abc', b"'abc", b"[1, {", b"{}{"):
        d.until_sync(data + b"\xff")


@scenario
def reset_byte_alone(d: Session) -> None:
    d.until_sync(b"\xff")
    d.until_sync(b"\xff\xff")
    d.until_sync(b'{"execute": "query-jobs"}\xff')


@scenario
def single_quotes(d: Session) -> None:
    d.until_sync("{'execute': 'query-jobs'}")
    d.until_sync("{'execute': 'query-jobs', 'id': 'one'}")
    d.until_sync('{\'execute\': "query-jobs", "id": \'a"b\'}')


@scenario
def whitespace_alone(d: Session) -> None:
    d.until_sync("")
    d.until_sync("\n\n \t\r\n")
    d.until_sync("\v")
    d.until_sync("\f")
    d.until_sync("\0")


@scenario
def nesting_limits(d: Session) -> None:
    for depth in (100, 1000, 1022, 1023, 1024, 1025):
        d.until_sync('{"execute": "query-jobs", "id": ' + "[" * depth + "]" * depth + "}")


@scenario
def nesting_endless(d: Session) -> None:
    d.until_sync(b"[" * 5000 + b"\xff")
    d.until_sync(b"{" * 3 + b"\xff")
    d.until_sync(b'{"a":' * 2000 + b"\xff")


@scenario
def long_string(d: Session) -> None:
    d.until_sync('{"execute": "query-jobs", "zzz": "' + "x" * 100_000 + '"}')


@scenario
def many_members(d: Session) -> None:
    members = ", ".join(f'"m{i}": {i}' for i in range(300))
    d.until_sync(f'{{"execute": "blockdev-del", "arguments": {{{members}}}}}')
