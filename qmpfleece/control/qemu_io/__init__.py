"""qemu-io, as the monitor offers it: one command on one node, its output as text."""
