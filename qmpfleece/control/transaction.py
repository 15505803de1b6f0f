"""Transactions: several actions, all or none, at one moment.

All nodes are drained once at the start; those whose bitmaps change stay so to the end. Then
every action is prepared, in order; what can be refused is refused there. When all are, all are
committed; else those that were prepared are aborted, the last one first. A command that is also
an action is a transaction of one.

Between ``prepare`` of the first action and ``clean`` of the last no other command that changes
something runs: this one has the dispatcher's turn. But jobs end, and exports and their clients
go, whenever an action awaits: nodes are to be looked up again after that.

Source: QAPI ``transaction``, ``TransactionAction``, ``TransactionProperties``.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import create_model

from qmpfleece.base.errors import QmpError
from qmpfleece.base.registry import Derived, Folder, Registry
from qmpfleece.block.drain import all_drained, drained
from qmpfleece.block.node import Node
from qmpfleece.jobs.txn import JobTxn
from qmpfleece.qapi.model import Model

if TYPE_CHECKING:
    from qmpfleece.control.system import System

log = logging.getLogger(__name__)

#: QAPI ``ActionCompletionMode``.
CompletionMode = Literal["individual", "grouped"]

#: Every action by its QAPI ``TransactionActionKind``.
ACTIONS: Final[Registry[type["Action"]]] = Registry(
    "transaction action",
    Folder("qmpfleece.control.commands", r'^class \w+\([^)]*\btype="([\w-]+)"'),
)


class TransactionAction(Model):
    """QAPI ``TransactionAction``; ``ACTION_MODELS`` has one for each type, with its ``data``."""

    type: str
    data: Any


class ActionProperties(Model):
    """QAPI ``TransactionProperties``."""

    completion_mode: CompletionMode | None = None


@cache
def _action_model(name: str) -> type[TransactionAction]:
    """Return the model of an action."""
    return create_model(
        f"{name}-action",
        __base__=TransactionAction,
        type=(str, ...),
        data=(ACTIONS[name].model, ...),
    )


#: The model of each action by its type.
ACTION_MODELS: Final = Derived(ACTIONS, _action_model)


class Action:
    """One action of a transaction.

    Class keywords:
        type: Its name on the wire.

    Args:
        system: What it may touch.
        data: Its arguments, an instance of ``model``.
        txn: The transaction of the jobs that it starts; None for one of their own.

    Attributes:
        kind: Its name.
        model: The model of its arguments.
        grouped: Whether jobs of it can be grouped with those of other actions.
    """

    kind: ClassVar[str]
    model: ClassVar[type[Model]]
    grouped: ClassVar[bool] = False

    def __init_subclass__(cls, *, type: str = "", **kwargs: Any) -> None:  # noqa: A002 - its name
        super().__init_subclass__(**kwargs)
        if type:
            cls.kind = type
            ACTIONS.add(type, cls, cls.__module__)

    def __init__(self, system: "System", data: Any, txn: JobTxn | None = None) -> None:
        self.system: Final = system
        self.data = data
        self.txn: Final = txn
        self._held = AsyncExitStack()

    def still(self) -> Iterable[Node]:
        """Return the nodes that are to take no requests from the first action to the last."""
        return ()

    async def find_drained(self, find: Callable[[], Node]) -> Node:
        """Return the node that ``find`` finds, which is drained until ``clean``.

        It is looked for again once it is drained: a job that has ended meanwhile may have taken
        it out of the graph.

        Raises:
            QmpError: There is none.
        """
        while True:
            node = find()
            await self._held.enter_async_context(drained(node))
            if find() is node:
                return node
            await self._held.aclose()

    async def prepare(self) -> None:
        """Do all that may fail, so that it can still be undone.

        Raises:
            QmpError: It is refused. ``abort`` and ``clean`` are called all the same.
        """
        raise NotImplementedError

    def commit(self) -> None:
        """Make it final. All actions have been prepared."""

    async def abort(self) -> None:
        """Undo what ``prepare`` has done, which may have failed half-way."""

    async def clean(self) -> None:
        """Release what was held for the transaction, after ``commit`` or ``abort``."""
        await self._held.aclose()


async def run(system: "System", actions: Sequence[Action]) -> None:
    """Run a transaction.

    Raises:
        QmpError: An action was refused; nothing has changed.
    """
    async with AsyncExitStack() as held:
        newest_first = system.graph.nodes()
        async with all_drained(reversed(newest_first)):  # what was on its way has arrived
            still = {node for action in actions for node in action.still()}
            ordered = [node for node in newest_first if node in still]
            await held.enter_async_context(drained(*ordered))
        await _run(actions)


async def _run(actions: Sequence[Action]) -> None:
    prepared: list[Action] = []
    try:
        for action in actions:
            _check_completion_mode(action)
            prepared.append(action)
            await action.prepare()
        for action in prepared:
            action.commit()
    except BaseException:
        for action in reversed(prepared):
            await _surely(action.abort)
        raise
    finally:
        for action in prepared:
            await _surely(action.clean)


async def _surely(step: Callable[[], Awaitable[None]]) -> None:
    """Do what other actions must not suffer from: they are undone and released as well."""
    try:
        await step()
    except Exception:
        log.exception("%s has failed unexpectedly", step.__qualname__)


def _check_completion_mode(action: Action) -> None:
    if action.txn is not None and not action.grouped:
        raise QmpError(
            f"Action '{action.kind}' does not support Transaction property"
            " completion-mode = grouped"
        )
