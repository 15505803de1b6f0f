"""Where the data of a read lies in files, held in place until it has been read."""

from collections.abc import Callable


class Places:
    """What ``BlockDriver.locate`` finds.

    Attributes:
        runs: One behind the other, the data: a file's descriptor, and offset and length there,
            in bytes.
        held: What is to be called once the data was read: until then neither do nodes go away
            nor does anybody write there who must wait for reads.
    """

    __slots__ = ("held", "runs")

    def __init__(self) -> None:
        self.runs: list[tuple[int, int, int]] = []
        self.held: list[Callable[[], None]] = []

    def release(self) -> None:
        """Let go; again does no harm."""
        held, self.held = self.held, []
        for let_go in held:
            let_go()
