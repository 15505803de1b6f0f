"""qcow2: images with copy-on-write, snapshots, compression and dirty bitmaps.

::

    driver                                       the verbs, and what queries ask
    reader  writer  discard  compress  resize    the kinds of request
    clusters  allocator                          L2 entries; free clusters of the file
    journal                                      the order in which metadata reaches the file
    bitmaps  snapshots  snapshotting  cleaning   everything beside the data
    check  create  info
    image                                        what they share: header, tables, children
    tables  overlap  header  extensions  layout  plain data

There are no locks. Metadata changes in memory, in functions that do not await; ``journal``
writes it in an order that leaves a valid file whenever the process ends: refcounts before the
tables that refer to clusters, those before clusters are given back.
"""

from qmpfleece.block.drivers.qcow2.create import Qcow2CreateOptions
from qmpfleece.block.drivers.qcow2.driver import Qcow2

__all__ = ["Qcow2", "Qcow2CreateOptions"]
