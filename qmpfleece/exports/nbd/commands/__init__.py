"""The commands of the transmission phase, one NBD_CMD_* a file."""
