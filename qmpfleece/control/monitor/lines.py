"""Command lines of the human monitor: their words, and what is wrong with them.

Source: what ``human-monitor-command`` of QEMU 7.2 says.
"""

import re
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.control.qemu_io.numbers import parse_size

#: A size with its unit; what follows is no part of it.
_SIZE: Final = re.compile(r"(0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?)([bBkKmMgGtTpPeE]?)", re.ASCII)
#: What separates words: the characters that are space to C, which are fewer than Python's.
SPACE: Final = " \t\n\v\f\r"
_words: Final = re.compile(f"[{SPACE}]+").split
_ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


class BadLineError(QmpError):
    """A line that can't be read; ``output`` is for the terminal of the program.

    Args:
        desc: What is said to whoever sent it.
        output: What the program prints.
    """

    def __init__(self, desc: str, output: str = "") -> None:
        super().__init__(desc)
        self.output = output


class Line:
    """The arguments of one command line.

    Args:
        name: The command, for messages.
        text: What follows it.
        topic: What its help is asked under.
    """

    def __init__(self, name: str, text: str, topic: str = "") -> None:
        self._name = name
        self._topic = topic or name
        self._rest = text.lstrip(SPACE)

    def _bad(self, what: str, output: str = "") -> BadLineError:
        return BadLineError(f'{what}\nTry "help {self._topic}" for more information\n', output)

    def option(self, letter: str, later: str = "") -> bool:
        """Take ``-letter`` if it comes next.

        Args:
            letter: What is looked for.
            later: Options that may still come; they are left where they are.

        Raises:
            BadLineError: Another option comes.
        """
        if self._rest[:1] != "-":
            return False
        found = self._rest[1:2]
        if found == letter:
            self._rest = self._rest[2:].lstrip(SPACE)
            return True
        if not found:  # the end of the line cuts off what would follow
            raise BadLineError(
                f"{self._name}: unsupported option -"
                f'Try "help {self._topic}" for more information\n'
            )
        if found not in later:
            raise self._bad(f"{self._name}: unsupported option -{found}")
        return False

    def word(self, missing: str) -> str:
        """Take a word, or a string in quotes.

        Raises:
            BadLineError: There is none; ``missing`` names what was expected.
        """
        found = self.optional()
        if found is None:
            raise self._bad(f"{self._name}: {missing} expected")
        return found

    def optional(self) -> str | None:
        """Take a word if there is one; a string that doesn't end is an error."""
        if not self._rest:
            return None
        if self._rest[0] != '"':
            found = _words(self._rest, 1)[0]
            self._rest = self._rest[len(found) :].lstrip(SPACE)
            return found
        return self._quoted()

    def mebibytes(self) -> int:
        """Take a size, in MiB unless it says so, and return it in bytes.

        Raises:
            BadLineError: There is none, or it is too large.
        """
        found = _SIZE.match(self._rest)
        if found is None:
            raise self._bad("invalid size")
        try:
            value = parse_size(found[0] if found[2] else f"{found[0]}m")
        except QmpError as error:
            raise self._bad("invalid size") from error
        self._rest = self._rest[found.end() :].lstrip(SPACE)
        return value

    def _quoted(self) -> str:
        found: list[str] = []
        letters = iter(enumerate(self._rest[1:], 1))
        for index, letter in letters:
            if letter == '"':
                self._rest = self._rest[index + 1 :].lstrip(SPACE)
                return "".join(found)
            if letter != "\\":
                found.append(letter)
                continue
            _, escaped = next(letters, (0, ""))
            if escaped not in _ESCAPES:
                raise self._bad(
                    f"{self._name}: string expected", f"unsupported escape code: '\\{escaped}'\n"
                )
            found.append(_ESCAPES[escaped])
        raise self._bad(f"{self._name}: string expected", "unterminated string\n")

    def end(self) -> None:
        """Make sure that nothing follows.

        Raises:
            BadLineError: Something does.
        """
        if self._rest:
            raise self._bad(f"{self._name}: extraneous characters at the end of line")
