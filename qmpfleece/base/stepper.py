"""What carries a request on that has suspended; see ``eager``."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from qmpfleece.base.eager import Resumable


class Stepper:
    """Runs a coroutine to its end, resuming it whenever what it waits for has happened.

    Subclasses say in ``ended`` what is to happen then. Nothing needs to hold a stepper: what
    it waits for does.

    Args:
        coro: Owned from now on; nothing is run before ``step``.
        loop: The running loop.
    """

    __slots__ = ("_coro", "_loop")

    def __init__(self, coro: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
        self._coro = coro
        self._loop = loop

    def ended(self, error: BaseException | None) -> None:
        """Take note that the coroutine has returned, or raised ``error``."""
        raise NotImplementedError

    def step(self, _future: Any = None) -> None:
        """Run the coroutine to its next suspension, or to its end."""
        try:
            waits_for = self._coro.send(None)
        except StopIteration:
            self.ended(None)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - handed on, not swallowed
            self.ended(error)
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
