"""What may be a name.

Source: QEMU's ``id_wellformed``.
"""

import re
from typing import Final

_WELL_FORMED: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


def well_formed(name: str) -> bool:
    """Tell whether what users make, such as nodes, jobs and devices, can be called so."""
    return _WELL_FORMED.fullmatch(name) is not None
