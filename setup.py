"""The data path compiled to machine code, if QMPFLEECE_COMPILE=1: the same sources, by mypyc.

Everything else about the package stands in pyproject.toml. Listed is what every request of an
NBD client passes through; such modules keep to what mypyc takes: no pydantic models, no
subclasses of asyncio's futures, and a driver's options apart from it.
"""

import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMPILED = [
    "base/stepper.py",
    "base/units.py",
    "base/uring/queues.py",
    "base/uring/writes.py",
    "base/vigil.py",
    "bitmap/bits.py",
    "bitmap/dirty.py",
    "block/accounting.py",
    "block/alignment.py",
    "block/backend.py",
    "block/block_copy.py",
    "block/buffers.py",
    "block/child.py",
    "block/driver.py",
    "block/drivers/copy_before_write/driver.py",
    "block/drivers/copy_before_write/snapshot.py",
    "block/drivers/file/driver.py",
    "block/drivers/qcow2/clusters.py",
    "block/drivers/qcow2/driver.py",
    "block/drivers/qcow2/header_writer.py",
    "block/drivers/qcow2/image.py",
    "block/drivers/qcow2/journal.py",
    "block/drivers/qcow2/layout.py",
    "block/drivers/qcow2/overlap.py",
    "block/drivers/qcow2/reader.py",
    "block/drivers/qcow2/refcounts.py",
    "block/drivers/qcow2/tables.py",
    "block/drivers/qcow2/writer.py",
    "block/drivers/raw/driver.py",
    "block/drivers/snapshot_access/driver.py",
    "block/hostfile/known_data.py",
    "block/node.py",
    "block/pipeline.py",
    "block/places.py",
    "block/reqlist.py",
    "block/serialising.py",
    "block/zeroes.py",
    "exports/nbd/client.py",
    "exports/nbd/command.py",
    "exports/nbd/commands/read.py",
    "exports/nbd/commands/write.py",
    "exports/nbd/connection.py",
    "exports/nbd/courier.py",
    "exports/nbd/outgoing.py",
    "exports/nbd/requests.py",
    "nbdproto/buffers.py",
    "nbdproto/transmission.py",
]


def extensions() -> list[Extension]:
    """Return what is to be built; mypyc is only needed for that."""
    if os.environ.get("QMPFLEECE_COMPILE", "0") in {"", "0"}:
        return []
    if {"dist_info", "egg_info"} & set(sys.argv):  # pip first asks what the package is called
        return []
    from mypyc.build import mypycify

    paths = [f"qmpfleece/{path}" for path in COMPILED]
    return mypycify([*paths, "--config-file="], opt_level="2", debug_level="0", multi_file=True)


class SideBySide(build_ext):
    """Compiles as many C files at a time as there are processors: setuptools would one by one."""

    def build_extensions(self) -> None:
        """Build all extensions; raises what the compiler raised for any file."""
        compile_one, link = self.compiler._compile, self.compiler.link_shared_object
        begun: list[Future[None]] = []

        def link_what_is_compiled(*args: Any, **options: Any) -> None:
            for each in as_completed(begun):
                each.result()
            begun.clear()
            link(*args, **options)

        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            self.compiler._compile = lambda *args: begun.append(pool.submit(compile_one, *args))
            self.compiler.link_shared_object = link_what_is_compiled
            super().build_extensions()
        finally:
            # After a failure no more are begun: what the compiler said of it is near the end.
            pool.shutdown(cancel_futures=True)


setup(ext_modules=extensions(), cmdclass={"build_ext": SideBySide})
