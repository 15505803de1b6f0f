"""NBD transmission commands, one NBD_CMD_* a file."""
