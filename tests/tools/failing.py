"""A file below an image some of whose writes and flushes fail."""

import errno
from collections.abc import Awaitable, Callable
from typing import Any

VERBS = ("pwrite", "pwrite_zeroes", "flush")


class Failing:
    """Counts the writes and flushes that reach a driver, and lets some in a row fail.

    Args:
        first: The first one that fails, from 0.
        many: How many fail.
        landed: They are done all the same, and only reported as failed: all, or so many.
        verbs: What is counted instead.
    """

    def __init__(
        self,
        first: int,
        many: int = 1,
        *,
        landed: bool | int = False,
        verbs: tuple[str, ...] = VERBS,
    ) -> None:
        self._verbs = verbs
        self._bad = range(first, first + many)
        self._landed = range(first, first + (many if landed is True else landed))
        self._count = 0
        self._driver: Any = None
        self._whole: dict[str, Callable[..., Awaitable[None]]] = {}

    @property
    def reached(self) -> bool:
        """Whether any has failed."""
        return self._count > self._bad.start

    def begin(self, driver: Any) -> None:
        """Count from here on."""
        self._driver = driver
        for verb in self._verbs:
            self._whole[verb] = getattr(driver, verb)
            setattr(driver, verb, self._counted(self._whole[verb]))

    def end(self) -> None:
        """Let all succeed again."""
        for verb, whole in self._whole.items():
            setattr(self._driver, verb, whole)

    def _counted(self, whole: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def request(*arguments: object) -> None:
            number, self._count = self._count, self._count + 1
            if number in self._bad:
                if number in self._landed:
                    await whole(*arguments)
                raise OSError(errno.EIO, "Input/output error")
            await whole(*arguments)

        return request
