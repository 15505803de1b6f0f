"""blkdebug: a filter that lets requests fail, or wait, when a test wants it.

``rules`` is what happens when; ``config`` reads rules from a file; ``driver`` is the filter.
"""

from qmpfleece.block.drivers.blkdebug.driver import Blkdebug, first_blkdebug

__all__ = ["Blkdebug", "first_blkdebug"]
