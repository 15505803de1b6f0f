"""qcow2: images with copy-on-write, snapshots, compression and dirty bitmaps.

::

    driver                                       the verbs, and what queries ask
    options  settings  opening  backing  reopen  what the options say; opening, and once more
    reader  writer  discard  compress  resize    the kinds of request
    clusters  refcounts                          L2 entries; free clusters of the file
    journal  header_writer                       how metadata reaches the file, in which order
    bitmaps  bitmapdir                           persistent bitmaps; their directory
    snapshots  snapshotting                      the list of snapshots; taking and deleting them
    check  cleaning  create  info  events        everything beside the data
    image                                        what they share: header, tables, children
    tables  overlap  header  extensions  layout  plain data
    compression  zstd                            what is done on threads

Metadata changes in memory, in functions that do not await; ``journal`` writes it in an order
that leaves a valid file whenever the process ends: refcounts before the tables that refer to
clusters, those before clusters are given back. No lock guards it: there are two, by which a disk
grows once at a time and its header is written by one at a time.
"""

from qmpfleece.block.drivers.qcow2.create import Qcow2CreateOptions
from qmpfleece.block.drivers.qcow2.driver import Qcow2

__all__ = ["Qcow2", "Qcow2CreateOptions"]
