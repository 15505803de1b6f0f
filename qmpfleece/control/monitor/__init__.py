"""The human monitor: command lines in, text out."""
