import struct

import pytest

from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.handshake import MAX_OPTION_DATA, ServerHandshake
from qmpfleece.nbdproto.option import ExportInfo
from tests.tools.nbd_pair import Exports, disk

CLIENT_FLAGS = b"\0\0\0\3"
CONTEXTS = (
    (0, "base:allocation"),
    (1, "qemu:allocation-depth"),
    (2, "qemu:dirty-bitmap:b0"),
    (3, "qemu:dirty-bitmap:b1"),
)


def machine(*exports: ExportInfo, flags=CLIENT_FLAGS):
    server = ServerHandshake(Exports(*(exports or (disk(contexts=CONTEXTS),))))
    assert server.feed(flags) == b""
    return server


def opt(number, data=b""):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def text(string):
    return struct.pack(">I", len(string)) + string


def replies(answer):
    """Return (option, type, data) of each reply."""
    found = []
    while answer:
        magic, number, kind, length = struct.unpack_from(">QIII", answer)
        assert magic == 0x3E889045565A9
        found.append((number, kind, answer[20 : 20 + length]))
        answer = answer[20 + length :]
    return found


def structured(server):
    server.feed(opt(8))
    return server


def test_greeting_is_fixed_newstyle_without_zeroes():
    # Section "Fixed newstyle negotiation"
    assert machine().greeting() == b"NBDMAGICIHAVEOPT\0\3"


def test_list_names_exports_oldest_first_with_descriptions():
    server = machine(disk("a", description="hello"), disk("b"))
    assert server.feed(opt(3)) == (
        b"\x00\x03\xe8\x89\x04\x55\x65\xa9" + b"\0\0\0\3" + b"\0\0\0\2" + b"\0\0\0\x0a"
        b"\0\0\0\1ahello"
        b"\x00\x03\xe8\x89\x04\x55\x65\xa9" + b"\0\0\0\3" + b"\0\0\0\2" + b"\0\0\0\5"
        b"\0\0\0\1b"
        b"\x00\x03\xe8\x89\x04\x55\x65\xa9" + b"\0\0\0\3" + b"\0\0\0\1" + b"\0\0\0\0"
    )


def test_go_describes_the_export_and_enters_it():
    server = machine(disk(description="hello"))
    answer = server.feed(opt(7, text(b"disk") + b"\0\2\0\3\0\1") + b"rest")
    assert replies(answer) == [
        (7, 3, b"\0\1disk"),
        (7, 3, b"\0\2hello"),
        (7, 3, b"\0\3" + b"\0\0\0\1" + b"\0\0\x10\0" + b"\2\0\0\0"),
        (7, 3, b"\0\0" + b"\0\0\0\0\0\x10\0\0" + b"\0\x0d"),
        (7, 1, b""),
    ]
    assert server.result is not None
    assert server.result.export.name == "disk"
    assert not server.result.structured
    assert server.leftover == b"rest"


def test_info_stays_in_the_handshake():
    server = machine()
    assert replies(server.feed(opt(6, text(b"disk") + b"\0\0")))[-1] == (6, 1, b"")
    assert server.result is None


def test_go_shows_true_minimum_block_only_to_those_who_ask():
    def minimum(number, wanted):
        answer = replies(machine(disk(min_block=512)).feed(opt(number, text(b"disk") + wanted)))
        return struct.unpack(">H3I", answer[0][2])[1]

    assert minimum(7, b"\0\0") == 1
    assert minimum(7, b"\0\1\0\3") == 512
    assert minimum(6, b"\0\0") == 512


def test_df_flag_appears_with_structured_replies():
    server = structured(machine())
    answer = replies(server.feed(opt(7, text(b"disk") + b"\0\0")))
    assert answer[-2][2][-2:] == b"\0\x8d"
    assert server.result is not None
    assert server.result.structured


def test_export_name_enters_without_zeroes():
    assert machine().feed(opt(1, b"disk")) == b"\0\0\0\0\0\x10\0\0\0\x0d"


def test_export_name_sends_zeroes_to_those_who_did_not_decline():
    answer = machine(flags=b"\0\0\0\1").feed(opt(1, b"disk"))
    assert answer == b"\0\0\0\0\0\x10\0\0\0\x0d" + bytes(124)


def test_export_name_ends_at_nul():
    server = machine()
    server.feed(opt(1, b"disk\0x"))
    assert server.result is not None


def test_export_name_is_allowed_without_fixed_newstyle():
    server = machine(flags=b"\0\0\0\0")
    server.feed(opt(1, b"disk"))
    assert server.result is not None


def test_abort_is_acknowledged_and_ends():
    server = machine()
    assert replies(server.feed(opt(2))) == [(2, 1, b"")]
    assert server.closed == ""


LIST_QUERIES = [
    ([], [0, 1, 2, 3]),
    ([b"base:"], [0]),
    ([b"base:allocation"], [0]),
    ([b"base:x"], []),
    ([b"base"], []),
    ([b""], []),
    ([b"qemu:"], [1, 2, 3]),
    ([b"qemu:dirty-bitmap:"], [2, 3]),
    ([b"qemu:dirty-bitmap:b1"], [3]),
    ([b"qemu:allocation-depth", b"base:"], [0, 1]),
    ([b"x" * 5000], []),
]


@pytest.mark.parametrize(("queries", "expected"), LIST_QUERIES)
def test_list_meta_context_matches_names_and_namespaces(queries, expected):
    data = text(b"disk") + struct.pack(">I", len(queries)) + b"".join(map(text, queries))
    answer = replies(machine().feed(opt(9, data)))
    assert answer == [
        *((9, 4, b"\0\0\0\0" + CONTEXTS[i][1].encode()) for i in expected),
        (9, 1, b""),
    ]


def test_set_meta_context_chooses_by_full_name_only():
    server = structured(machine())
    queries = [b"qemu:dirty-bitmap:b1", b"base:", b"base:allocation"]
    data = text(b"disk") + struct.pack(">I", len(queries)) + b"".join(map(text, queries))
    assert replies(server.feed(opt(10, data))) == [
        (10, 4, b"\0\0\0\0base:allocation"),
        (10, 4, b"\0\0\0\3qemu:dirty-bitmap:b1"),
        (10, 1, b""),
    ]
    server.feed(opt(7, text(b"disk") + b"\0\0"))
    assert server.result is not None
    assert server.result.contexts == (CONTEXTS[0], CONTEXTS[3])


def test_contexts_of_another_export_are_forgotten():
    server = structured(machine(disk("a"), disk("b")))
    server.feed(opt(10, text(b"a") + b"\0\0\0\1" + text(b"base:allocation")))
    server.feed(opt(7, text(b"b") + b"\0\0"))
    assert server.result is not None
    assert server.result.contexts == ()


EXPECTED_ERRORS = [
    (opt(3, b"abc"), 3, b"option 'list' has unexpected length"),
    (opt(8, b"z"), 3, b"option 'structured reply' has unexpected length"),
    (opt(99, b"abc"), 1, b"Unsupported option 99 (<unknown>)"),
    (opt(5), 2, b"TLS not configured"),
    (opt(6, text(b"nope") + b"\0\0"), 6, b"export 'nope' not present"),
    (opt(6, text(b"") + b"\0\0"), 6, b"export '' not present"),
    (opt(6, text(b"\xff\n") + b"\0\0"), 6, b"export '\xff\n' not present"),
    (opt(6, text(b"n" * 4096) + b"\0\0"), 6, b"export '" + b"n" * 80 + b"...' not present"),
    (opt(6, text(b"n" * 4097) + b"\0\0"), 3, b"Invalid name length: 4097"),
    (opt(6, text(b"disk\0") + b"\0\0"), 3, b"Unexpected embedded NUL in option info"),
    (opt(6, b"abc"), 3, b"Inconsistent lengths in option info"),
    (opt(6, text(b"disk")), 3, b"Inconsistent lengths in option info"),
    (opt(6, text(b"disk") + b"\0\2\0\0"), 3, b"Inconsistent lengths in option info"),
    (opt(6, text(b"disk") + b"\0\0zz"), 3, b"option 'info' has unexpected length"),
    (opt(9, b"z"), 3, b"Inconsistent lengths in option list meta context"),
    (
        opt(10, text(b"disk") + bytes(4)),
        3,
        b"request option 'set meta context' when structured reply is not negotiated",
    ),
    (opt(7, b"x" * (MAX_OPTION_DATA + 1)), 9, b"option 'go' is too long"),
]


@pytest.mark.parametrize(("sent", "error", "message"), EXPECTED_ERRORS)
def test_client_sends_bad_option_and_goes_on(sent, error, message):
    server = machine()
    assert replies(server.feed(sent)) == [
        (struct.unpack_from(">I", sent, 8)[0], (1 << 31) | error, message)
    ]
    assert server.closed is None
    assert replies(server.feed(opt(3)))[-1] == (3, 1, b"")


def test_client_asks_for_structured_replies_twice():
    server = structured(machine())
    assert replies(server.feed(opt(8))) == [
        (8, const.REP_ERR_INVALID, b"structured reply already negotiated")
    ]


EXPECTED_CLOSES = [
    (b"x" * 16, "Bad magic received"),
    (
        b"IHAVEOPT" + struct.pack(">II", 99, 33 << 20),
        "len (34603008 ) is larger than max len (33554432)",
    ),
    (opt(1, b"nope"), "export not found"),
    (opt(1, b"n" * 4097), "Bad length received"),
]


@pytest.mark.parametrize(("sent", "reason"), EXPECTED_CLOSES)
def test_client_sends_what_ends_the_handshake(sent, reason):
    server = machine()
    assert server.feed(sent) == b""
    assert server.closed == reason
    assert server.result is None


def test_client_sends_unknown_flags():
    assert machine(flags=b"\0\0\0\4").closed == "Unknown client flags 0x4 received"


def test_client_sends_option_without_fixed_newstyle():
    server = machine(flags=b"\0\0\0\0")
    assert server.feed(opt(3)) == b""
    assert server.closed == "Unsupported option 3 (list)"


def test_client_sends_huge_unknown_option_and_none_of_it_is_kept():
    server = machine()
    assert server.feed(b"IHAVEOPT" + struct.pack(">II", 99, 32 << 20)) == b""
    for _ in range(31):
        assert server.feed(bytes(1 << 20)) == b""
        assert server.leftover == b""
    assert replies(server.feed(bytes(1 << 20)))[0][1] == const.REP_ERR_UNSUP
    assert server.leftover == b""
    assert replies(server.feed(opt(3)))[-1] == (3, 1, b"")


def test_silent_client_has_not_spoken():
    server = ServerHandshake(Exports())
    server.greeting()
    assert not server.spoke
    server.feed(b"\0")
    assert server.spoke


def test_client_sends_list_options_for_ever_and_is_told_a_bounded_amount():
    server = machine(*(disk(f"{i}", description="d" * 4096) for i in range(100)))
    told = len(server.feed(opt(3) * 1000))
    assert server.closed == "too many options"
    assert told < (17 << 20)
