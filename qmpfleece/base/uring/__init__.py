"""Linux's io_uring, through ctypes: requests that the kernel works on without a thread of ours."""
