"""NBD meta contexts, one a file."""
