"""blockdev-create: make an image."""

from qmpfleece.base.errors import QmpError
from qmpfleece.block.creating import CREATE_MODELS, BlockdevCreateOptions
from qmpfleece.control.command import command
from qmpfleece.control.system import System
from qmpfleece.jobs.kinds.create import CreateJob


@command("blockdev-create")
async def blockdev_create(system: System, job_id: str, options: BlockdevCreateOptions) -> None:
    """Start a job that creates an image; it has to be dismissed when it is concluded."""
    if options.driver not in CREATE_MODELS:
        raise QmpError("Driver does not support blockdev-create")
    job = CreateJob(system.graph, job_id, options)
    system.jobs.add(job)
    job.start()
