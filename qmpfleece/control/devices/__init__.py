"""The machine's devices: disks of a guest that does not run, and the buses they sit on."""
