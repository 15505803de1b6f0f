"""create: make an image. It can't be stopped half-way, so it looks at no flags.

Source: QAPI ``blockdev-create``.
"""

from typing import Final

from qmpfleece.block.creating import BlockdevCreateOptions
from qmpfleece.block.graph import Graph
from qmpfleece.jobs.job import Job


class CreateJob(Job, kind="create"):
    """The job. It has one unit to do, and has to be dismissed.

    Args:
        graph: Where nodes that the options refer to live.
        job_id: As ``Job``.
        options: What to create.
    """

    def __init__(self, graph: Graph, job_id: str, options: BlockdevCreateOptions) -> None:
        super().__init__(job_id, auto_dismiss=False)
        self._graph: Final = graph
        self._options: Final = options
        self.total = 1

    async def run(self) -> None:
        """Create the image."""
        try:
            await self._options.create(self._graph)
        finally:
            self.current = 1
