"""QMP commands, one noun a file, found by scanning this folder."""
