"""The NBD wire without I/O, both sides.

====================  ==========================================================
server                ``handshake.ServerHandshake``, ``transmission.RequestParser``
                      and the reply packers of ``transmission`` and ``extents``
client                ``client.ClientHandshake``, ``client.pack_request``,
                      ``replies.ReplyParser``
both                  ``const``, ``codec``, ``buffers``
====================  ==========================================================

Machines are fed with bytes and give bytes or finished things back; whoever owns the socket
moves the bytes. ``options/`` holds one NBD_OPT_* a file.
Source: NBD protocol, doc/proto.md; texts as QEMU 7.2 sends them.
"""
