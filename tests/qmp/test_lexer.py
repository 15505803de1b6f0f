"""Tokens; what becomes of them, and of what is none, is tested with the framer."""

import pytest

from qmpfleece.qmp import lexer
from qmpfleece.qmp.lexer import Lexer, Stray, TooLong


@pytest.mark.parametrize(
    ("data", "tokens"),
    [
        (b' {"a" :[1,\ttrue]}\r\n', [b"{", b'"a"', b":", b"[", b"1", b",", b"true", b"]", b"}"]),
        (b"'it\\'s' ", [b"'it\\'s'"]),
        (b"-12.5e+3 0 ", [b"-12.5e+3", b"0"]),
        (b"-1x ", [b"-1", b"x"]),
        (b"1.5.5 ", [b"1.5", Stray(b".")]),
        (b'"a\nb"{', [Stray(b'"a\n'), b"{"]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_tokens_are_found_whatever_the_pieces(data, tokens, size):
    machine = Lexer()
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    assert [token for piece in pieces for token in machine.feed(piece)] == tokens


def test_string_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(lexer, "MAX_TOKEN_BYTES", 10)
    machine = Lexer()
    assert list(machine.feed(b'"12345')) == []
    assert list(machine.feed(b'67890"{')) == [TooLong(), b"{"]


def test_much_space_is_looked_at_once():
    """Else this takes longer than a test may."""
    machine = Lexer()
    assert list(machine.feed(b" " * 2_000_000)) == []
    assert list(machine.feed(b"{")) == [b"{"]


class Counting(Lexer):
    """Counts the bytes that are looked at one by one."""

    steps = 0

    def _step(self, data, position):
        self.steps += 1
        return super()._step(data, position)


@pytest.mark.parametrize(
    ("first", "many"),
    [
        (b"?", b"some text"),
        (b"a", b"a"),
        (b"1", b"1"),
        (b"1.", b"1"),
        (b"1e", b"1"),
        (b'"', b"\\n"),
        (b"'", b"\\\\"),
    ],
)
def test_what_goes_on_in_a_second_piece_is_not_looked_at_byte_by_byte(first, many):
    machine = Counting()
    list(machine.feed(first))
    assert list(machine.feed(many * 1000)) == []
    assert machine.steps < 5
