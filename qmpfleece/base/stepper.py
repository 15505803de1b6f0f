"""What carries a request on that has suspended, and what it waits for; see ``eager``."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Final, Generic, TypeVar

from mypy_extensions import mypyc_attr

T = TypeVar("T")

#: What ``next`` returns of a coroutine that has come to its end.
OVER: Final = object()
_PENDING: Final = object()


class Stepper:
    """Runs a coroutine to its end, resuming it whenever what it waits for has happened.

    Subclasses say in ``ended`` what is to happen then. Nothing needs to hold a stepper: what
    it waits for does.

    Args:
        coro: Owned from now on; nothing is run before ``step``.
        loop: The running loop.
    """

    __slots__ = ("_loop", "_steps")

    def __init__(self, coro: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
        self._steps = coro.__await__()
        self._loop = loop

    def ended(self, error: BaseException | None) -> None:
        """Take note that the coroutine has returned, or raised ``error``."""
        raise NotImplementedError

    def step(self, _future: Any = None) -> None:
        """Run the coroutine to its next suspension, or to its end."""
        try:
            waits_for = next(self._steps, OVER)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - handed on, not swallowed
            self.ended(error)
        else:
            if waits_for is OVER:
                self.ended(None)
            else:
                self.wait_for(waits_for)

    def wait_for(self, future: Any) -> None:
        """Go on when ``future``, which the coroutine has just yielded, is done."""
        if isinstance(future, Resumable):
            future._asyncio_future_blocking = False
            future._stepper = self
        elif future is None:  # asyncio.sleep(0)
            self._loop.call_soon(self.step)
        else:
            future._asyncio_future_blocking = False
            future.add_done_callback(self.step)


@mypyc_attr(allow_interpreted_subclasses=True)
class Resumable(Generic[T]):
    """A future whose result resumes the stepper that waits for it, there and then.

    To be settled once, by ``settle``, on the loop. Tasks may await it like any other, as it
    has of ``asyncio.Future`` what they ask for; but to make a real one costs as much as all
    else about a request to the kernel.

    It can't be cancelled: the kernel, or a thread, works on the request's memory and file, and
    who cancels the request must not take them away. A cancelled task carries on to the end.
    """

    __slots__ = (
        "_asyncio_future_blocking", "_callbacks", "_error", "_loop", "_stepper", "_value",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._stepper: Stepper | None = None
        self._callbacks: list[tuple[Callable[[Any], object], Context | None]] | None = None
        self._value: Any = _PENDING
        self._error: BaseException | None = None

    def settle(self, value: T, error: BaseException | None) -> None:
        """Deliver the result, or the error if there is one."""
        self._value = value
        self._error = error
        if self._callbacks is not None:
            callbacks, self._callbacks = self._callbacks, None
            for function, context in callbacks:
                self._loop.call_soon(function, self, context=context)
        if self._stepper is not None:
            stepper, self._stepper = self._stepper, None
            stepper.step()

    def __await__(self) -> Generator[Any, Any, T]:
        if self._value is _PENDING:
            self._asyncio_future_blocking = True
            yield self
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    def result(self) -> T:
        """Return what was delivered.

        Raises:
            BaseException: The error, if that was delivered.
        """
        if self._value is _PENDING:
            raise asyncio.InvalidStateError("Result is not set.")
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    def exception(self) -> BaseException | None:
        """Return the error, None if there is none."""
        if self._value is _PENDING:
            raise asyncio.InvalidStateError("Exception is not set.")
        return self._error

    def done(self) -> bool:
        """Tell whether it is settled."""
        return self._value is not _PENDING

    def cancel(self, msg: object = None) -> bool:
        """Refuse: asyncio cancels the waiting task when this is settled."""
        return False

    def cancelled(self) -> bool:
        """Tell that it was not cancelled."""
        return False

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop."""
        return self._loop

    def add_done_callback(
        self, function: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Have ``function`` called with this by the loop, once it is settled."""
        if self._value is not _PENDING:
            self._loop.call_soon(function, self, context=context)
        elif self._callbacks is None:
            self._callbacks = [(function, context)]
        else:
            self._callbacks.append((function, context))

    def remove_done_callback(self, function: Callable[[Any], object]) -> int:
        """Have it not called; return how often it would have been."""
        callbacks = self._callbacks or []
        self._callbacks = [callback for callback in callbacks if callback[0] != function]
        return len(callbacks) - len(self._callbacks)
