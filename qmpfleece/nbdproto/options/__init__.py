"""NBD_OPT_* negotiation, one option a file."""
