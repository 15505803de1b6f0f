"""What block status can report, one metadata context a file.

A context has the ``name`` that clients choose it by, and ``extents``: at most ``limit`` pairs
(length, status) from ``offset`` on, neighbours of equal status joined, at least one, not past
``offset + length``.
"""
