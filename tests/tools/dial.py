"""Connecting to a socket that has been made and may not be listened on yet."""

import socket
import time
from typing import Final

_PATIENCE_S: Final = 10.0


def dial(address: str | tuple[str, int]) -> socket.socket:
    """Connect to a unix socket's path, or a host and port, once somebody listens.

    Raises:
        ConnectionRefusedError: Nobody does in time.
    """
    if isinstance(address, str):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        connection = socket.socket(family)
        try:
            connection.connect(address)
        except OSError as error:
            connection.close()
            if not isinstance(error, ConnectionRefusedError) or time.monotonic() > deadline:
                raise
        else:
            return connection
