"""What the host's kernel offers for image files: lock bytes, holes, deallocation."""
