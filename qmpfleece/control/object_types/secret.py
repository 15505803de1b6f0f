"""secret: a password or key, given as it is or in a file."""

import base64
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.base.files import c_string
from qmpfleece.control.object_options import ObjectOptions
from qmpfleece.control.objects import UserObject
from qmpfleece.control.shape import shape_of
from qmpfleece.control.visitor import visit

if TYPE_CHECKING:
    from qmpfleece.control.system import System

#: QAPI ``QCryptoSecretFormat``.
SecretFormat = Literal["raw", "base64"]
_KEY_LENGTH: Final = 32
_BASE64: Final = re.compile(r"[A-Za-z0-9+/=\n]*")


class SecretOptions(ObjectOptions):
    """QAPI ``SecretProperties``."""

    qom_type: Literal["secret"]
    loaded: bool | None = None
    format: SecretFormat | None = None
    keyid: str | None = None
    iv: str | None = None
    data: str | None = None
    file: str | None = None


class SecretObject(UserObject, qom_type="secret"):
    """A secret.

    Attributes:
        content: The secret itself; set by ``complete``.
    """

    properties: ClassVar[Mapping[str, str]] = {
        "data": "string",
        "file": "string",
        "format": "QCryptoSecretFormat",
        "iv": "string",
        "keyid": "string",
        "loaded": "bool",
    }
    read_only: ClassVar[frozenset[str]] = frozenset({"loaded"})

    def __init__(self, system: "System", name: str) -> None:
        super().__init__(system, name)
        self._values: dict[str, str] = {"format": "raw"}
        self.content: bytes | None = None

    def _get(self, name: str) -> Any:
        if name == "loaded":
            return self.content is not None
        return self._values.get(name, "")

    def _set(self, name: str, value: Any) -> None:
        shape = shape_of(SecretFormat if name == "format" else str)
        self._values[name] = visit(shape, value, name, name)

    async def complete(self) -> None:
        """Read and decode the secret.

        Differs: encrypted ones are refused.
        """
        values = self._values
        if "data" in values and "file" in values:
            raise QmpError("'file' and 'data' are mutually exclusive")
        if "file" in values:
            threads = self.system.graph.workers.queue(limit=1)
            raw = await threads.submit(_read, values["file"])
        elif "data" in values:
            raw = values["data"].encode("utf-8", "surrogateescape")
        else:
            raise QmpError("Either 'file' or 'data' must be provided")
        if "keyid" in values:
            self._check_key(values["keyid"])
            raise QmpError("encrypted secrets are not supported")
        self.content = _decoded(raw) if values["format"] == "base64" else raw

    def _check_key(self, name: str) -> None:
        key = self.system.objects.get(name)
        if not isinstance(key, SecretObject) or key.content is None:
            raise QmpError(f"No secret with id '{name}'")
        if len(key.content) != _KEY_LENGTH:
            raise QmpError(f"Key should be {_KEY_LENGTH} bytes in length")
        if "iv" not in self._values:
            raise QmpError("IV is required to decrypt secret")


def _read(name: str) -> bytes:
    """Return the content of a file.

    Raises:
        QmpError: It can't be read; QEMU's words, which are those of GLib.
    """
    path = c_string(name)
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        # A directory is opened; what Python's open refuses, read would refuse.
        opened = isinstance(error, IsADirectoryError)
        failed = "Error reading file" if opened else "Failed to open file"
        raise QmpError(
            f"Unable to read {name}: {failed} \u201c{path.decode(errors='replace')}\u201d:"
            f" {error.strerror}"
        ) from error


def _decoded(raw: bytes) -> bytes:
    """Decode base64 as leniently as GLib: padding counts for nothing.

    Raises:
        QmpError: There are other characters.
    """
    text = raw.decode("latin-1")
    if not _BASE64.fullmatch(text):
        raise QmpError("Base64 data contains invalid characters")
    digits = text.translate({ord("="): None, ord("\n"): None})
    digits = digits[: len(digits) - (len(digits) % 4 == 1)]  # one alone is not a byte
    return base64.b64decode(digits + "=" * (-len(digits) % 4))
