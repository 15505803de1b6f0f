"""Names on the wire."""


def kebab(name: str) -> str:
    """Return the wire name of a Python field: ``node_name`` -> ``node-name``."""
    return name.rstrip("_").replace("_", "-")
