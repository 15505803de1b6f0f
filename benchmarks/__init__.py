"""Speed beside qemu-storage-daemon and nbdkit; see ``benchmarks/run --help``."""
