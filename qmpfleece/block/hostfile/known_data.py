"""What is known to be data in a file, so that the file system need not be asked again.

A guest write under copy-before-write asks for the status of each cluster before it is copied;
in a disk full of data the answer is nearly always the same run. Data only becomes a hole by
zeroing, discarding or truncating, which forget the run; that another program makes a hole
beneath us goes unnoticed, and costs no more than reading zeroes.
"""


class KnownData:
    """One run of bytes that are data, the last one found."""

    __slots__ = ("_changes", "_end", "_start")

    def __init__(self) -> None:
        self._start = 0
        self._end = 0
        self._changes = 0

    def covers(self, offset: int, length: int) -> bool:
        """Tell whether the whole range is known to be data."""
        return self._start <= offset and offset + length <= self._end

    def ask(self) -> int:
        """Return a token for ``learn``, before the file system is asked."""
        return self._changes

    def learn(self, token: int, start: int, end: int) -> None:
        """Remember a run, unless holes may have been made since the token was given."""
        if token == self._changes:
            self._start, self._end = start, end

    def forget(self) -> None:
        """Forget all: holes are being made. To be called before and after."""
        self._start = self._end = 0
        self._changes += 1
