"""The options of the handshake, one NBD_OPT_* a file.

Two pairs share their work: INFO and GO (``describe``), LIST_META_CONTEXT and
SET_META_CONTEXT (``select``).
"""
