"""Every answer was given by qemu-storage-daemon 7.2 for the same bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.qmp import framer, lexer
from qmpfleece.qmp.framer import Framer, Malformed

VALUE = Malformed("JSON parse error, expecting value")


def stray(text):
    return Malformed(f"JSON parse error, stray '{text}'")


def parse_error(text):
    return Malformed(f"JSON parse error, {text}")


WELL_FORMED = [
    (b"{} {}", [{}, {}]),
    (b"{}{}", [{}, {}]),
    (b'{"id":\n\n\r\t 1}', [{"id": 1}]),
    (b"{'a':'b\"c'}", [{"a": 'b"c'}]),
    (b"{'a':'b\\'c'}", [{"a": "b'c"}]),
    (b'{"a":"\\/\\b\\f\\n\\r\\t\\\\\\"\\\'"}', [{"a": "/\b\f\n\r\t\\\"'"}]),
    (b'"\xc3\xa9\xc0\x80\x7f"', ["é\0\x7f"]),
    (b'"\\u00e9\\uD83D\\uDE00\\u0000"', ["é😀\0"]),
    (b'"\xf4\x8f\xbf\xbd"', ["\U0010fffd"]),
    (b"[-0,0,-1,1.5,1e3,1E+2,0.1e1]", [[0, 0, -1, 1.5, 1000.0, 100.0, 1.0]]),
    (b"[9223372036854775807,18446744073709551615]", [[(1 << 63) - 1, (1 << 64) - 1]]),
    (b"[18446744073709551616,-9223372036854775809]", [[float(1 << 64), -float(1 << 63)]]),
    (b"1e400 ", [float("inf")]),
    (b'123"a" ', [123, "a"]),
    (b'true "x" ', [True, "x"]),
    (b"true{} ", [True, {}]),
    (b"[null,false]", [[None, False]]),
]

MALFORMED = [
    (b"{]", [VALUE]),
    (b"[}", [VALUE]),
    (b"}", [VALUE]),
    (b",", [VALUE]),
    (b'{"a" 1}', [parse_error("missing : in object pair")]),
    (b'{"a"}', [parse_error("missing : in object pair")]),
    (b'{"a":}', [VALUE]),
    (b'{"a":1,}', [VALUE]),
    (b"[1,]", [VALUE]),
    (b"[,1]", [VALUE]),
    (b"[1 2]", [parse_error("expected separator in list")]),
    (b"[1}", [parse_error("expected separator in list")]),
    (b'{"a":1 "b":2}', [parse_error("expected separator in dict")]),
    (b'{"a":1]', [parse_error("expected separator in dict")]),
    (b"{1:2}", [parse_error("key is not a string in object")]),
    (b"{[1]:2}", [parse_error("key is not a string in object")]),
    (b"{{}:1}", [parse_error("key is not a string in object")]),
    (b"{a:2}", [parse_error("invalid keyword 'a'")]),
    (b'{"a":1,"a":2}', [parse_error("duplicate key")]),
    (b'{"a":1,"a":tru}', [parse_error("invalid keyword 'tru'")]),
    (b'{"a":True}', [stray("T"), VALUE]),
    (b'{"a":[{]}}', [VALUE]),
    (b'{"a":1}]{}', [{"a": 1}, VALUE, {}]),
    (b'"abc\n', [stray('"abc\n')]),
    (b'"ab\x01c"', [stray('"ab\x01')]),
    (b'"\\\n', [stray('"\\\n')]),
    (b'"\xff"', [stray('"\ufffd')]),
    (b'"\\\xff"', [stray('"\\\ufffd')]),
    (b'{"execute":"\xff"}', [stray('"\ufffd'), VALUE]),
    (b'"ab\xc3\xff', [stray('"ab\ufffd\ufffd')]),
    (b'"a\xed\xa0\x80\x01', [stray('"a\ufffd\x01')]),
    (b'"a\xc3\xa9b\x01', [stray('"aéb\x01')]),
    (b'"a\x00', [stray('"a')]),
    (b"\x00", [stray("")]),
    (b"/* x */", [stray("/")]),
    (b"-a ", [stray("-a")]),
    (b"01 ", [stray("01")]),
    (b"1. ", [stray("1. ")]),
    (b"1e+ ", [stray("1e+ ")]),
    (b".5 ", [stray(".")]),
    (b"-{} x ", [stray("-{"), VALUE, parse_error("invalid keyword 'x'")]),
    (b"0e5 ", [0, parse_error("invalid keyword 'e'"), 5]),
    (b"0.5e1 ", [5.0]),
    (b"nul_l ", [parse_error("invalid keyword 'nul'"), stray("_")]),
    (b"#\tx ", [stray("#")]),
    (b'#"x" ', [stray("#")]),
    (b"#\rx ", [stray("#"), parse_error("invalid keyword 'x'")]),
    (b"#\x0bx ", [stray("#"), stray("\x0b")]),
    (b"#x{}", [stray("#"), {}]),
    (b"#x\xffy{}", [stray("#"), stray("\ufffd"), {}]),
    (b"\xef\xbb\xbf{}", [stray("\ufffd"), {}]),
    (b"[1,\xff,2]", [stray("\ufffd"), VALUE, 2, VALUE]),
    (b'"ab\\qc"', [parse_error("invalid escape sequence in string")]),
    (b'"ab\\u12"', [parse_error('\\u12" is not a valid Unicode character')]),
    (b'"\\u123\xc3\xa9"', [parse_error("\\u123\ufffd is not a valid Unicode character")]),
    (b'"\\ud800"', [parse_error("\\ud800 is not a valid Unicode character")]),
    (b'"\\udc00"', [parse_error("\\udc00 is not a valid Unicode character")]),
    (b'"\\ud800\\u0041"', [parse_error("\\ud800 is not a valid Unicode character")]),
    (b'"\\ud800x"', [parse_error("\\ud800 is not a valid Unicode character")]),
    (b'"\\uFDD0"', [parse_error("\\uFDD0 is not a valid Unicode character")]),
    (b'"\xed\xa0\x80"', [parse_error("invalid UTF-8 sequence in string")]),
    (b'"\xef\xbf\xbf"', [parse_error("invalid UTF-8 sequence in string")]),
    (b'"\xc1\x81"', [parse_error("invalid UTF-8 sequence in string")]),
    (b'"\x80"', [parse_error("invalid UTF-8 sequence in string")]),
]


@pytest.mark.parametrize(("data", "values"), WELL_FORMED)
def test_values_are_read_as_qemu_reads_them(data, values):
    assert list(Framer().feed(data)) == values


@pytest.mark.parametrize(("data", "values"), MALFORMED)
def test_malformed_input_gets_the_text_of_qemu(data, values):
    assert list(Framer().feed(data)) == values


@pytest.mark.parametrize(("data", "values"), WELL_FORMED + MALFORMED)
def test_bytes_may_come_one_at_a_time(data, values):
    reader = Framer()
    assert [value for byte in data for value in reader.feed(bytes([byte]))] == values


@given(st.lists(st.sampled_from(WELL_FORMED + MALFORMED), min_size=1, max_size=5), st.data())
def test_pieces_of_any_size_give_the_same_values(cases, data):
    # A line end lets every case start afresh, whatever the one before has done.
    stream = b"\n".join(case for case, _ in cases) + b"\n"
    whole = list(Framer().feed(stream))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = Framer()
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [value for piece in pieces for value in reader.feed(piece)] == whole


@given(st.binary(max_size=60))
def test_any_bytes_are_survived_and_a_line_end_and_a_bracket_recover(data):
    reader = Framer()
    list(reader.feed(data))
    list(reader.feed(b"\n\xff\n"))  # ends an open string, and every open bracket
    assert list(reader.feed(b"{}")) == [{}]


def test_number_at_the_end_waits_for_what_follows():
    reader = Framer()
    assert list(reader.feed(b"12")) == []
    assert list(reader.feed(b"3")) == []
    assert list(reader.feed(b"\n")) == [123]


def test_1024_levels_are_read_and_the_next_one_is_refused():
    assert isinstance(next(iter(Framer().feed(b"[" * 1024 + b"]" * 1024))), list)
    refused = list(Framer().feed(b"[" * 1025 + b"]"))
    assert refused == [Malformed("JSON nesting depth limit exceeded"), VALUE]
    objects = list(Framer().feed(b'{"a":' * 1024 + b"{"))
    assert objects == [Malformed("JSON nesting depth limit exceeded")]


def test_endless_brackets_keep_no_memory():
    reader = Framer()
    piece = b"[" * 16384
    errors = sum(1 for _ in range(8) for _ in reader.feed(piece))
    assert errors == 8 * 16384 // 1025
    assert len(reader._tokens) <= 1024


def test_number_of_tokens_is_limited(monkeypatch):
    monkeypatch.setattr(framer, "MAX_TOKENS", 5)
    assert list(Framer().feed(b"[1,2]")) == [[1, 2]]
    assert list(Framer().feed(b"[1,2,[")) == [Malformed("JSON token count limit exceeded")]


def test_bytes_of_all_tokens_are_limited(monkeypatch):
    monkeypatch.setattr(framer, "MAX_TOKEN_BYTES", 20)
    seen = list(Framer().feed(b'["aaaaaaa","aaaaaaaaa", {}'))
    assert seen == [Malformed("JSON token size limit exceeded"), VALUE, {}]


def test_token_without_an_end_is_limited(monkeypatch):
    monkeypatch.setattr(lexer, "MAX_TOKEN_BYTES", 20)
    reader = Framer()
    seen = [value for _ in range(9) for value in reader.feed(b'"' if _ == 0 else b"aaaaaaaaaa")]
    assert seen == [Malformed("JSON token size limit exceeded")]
    assert list(reader.feed(b"\n{}")) == [{}]
