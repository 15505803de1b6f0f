"""transaction, and the action that makes one fail."""

from typing import ClassVar

from qmpfleece.base.errors import QmpError
from qmpfleece.control import transaction as engine
from qmpfleece.control.command import command
from qmpfleece.control.system import System
from qmpfleece.control.transaction import ACTIONS, Action, ActionProperties, TransactionAction
from qmpfleece.jobs.txn import JobTxn
from qmpfleece.qapi.model import Model


class AbortData(Model):
    """QAPI ``Abort``: no members."""


class Abort(Action, type="abort"):
    """Fail, to see that nothing is left of the others."""

    model: ClassVar[type[Model]] = AbortData
    grouped = True

    async def prepare(self) -> None:
        """Fail."""
        raise QmpError("Transaction aborted using Abort action")


@command("transaction")
async def transaction(
    system: System,
    actions: list[TransactionAction],
    properties: ActionProperties | None = None,
) -> None:
    """Do several things at one moment, all or none.

    Args:
        system: Where.
        actions: What, in this order.
        properties: Whether the jobs that are started succeed or fail together, too.
    """
    grouped = properties is not None and properties.completion_mode == "grouped"
    txn = JobTxn() if grouped else None
    await engine.run(system, [ACTIONS[item.type](system, item.data, txn) for item in actions])
