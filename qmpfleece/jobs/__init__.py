"""Long operations on nodes that run beside everything else: the engine and the kinds of jobs."""
