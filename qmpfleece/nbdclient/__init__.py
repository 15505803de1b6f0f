"""The client side of NBD: connect by URI, read, write, ask for block status."""
