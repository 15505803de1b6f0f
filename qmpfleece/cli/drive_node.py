"""The node of a drive: from loose options to the complete definition that blockdev-add takes.

A drive's options leave out what can be found out: the format of an image is probed, a child
``file`` without a driver is a file or whatever its name says, and options of the backing file
are laid over what the image says of it.

Source: QEMU's behaviour, observed on qemu-system-x86_64 7.2.
"""

from collections.abc import Mapping
from typing import Any, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.block.driver import DRIVERS
from qmpfleece.block.graph import Graph
from qmpfleece.block.hostfile.names import file_definition
from qmpfleece.block.node import Node
from qmpfleece.cli import keyval, options
from qmpfleece.cli.keyval import Tree
from qmpfleece.cli.typed import typed
from qmpfleece.control import describe, images
from qmpfleece.control.option_text import value_of
from qmpfleece.control.shape import Alternate, Shape, Struct, struct_of
from qmpfleece.control.visitor import MAX_DEPTH, visit
from qmpfleece.qapi.blockdev import BLOCKDEV_MODELS, BlockdevOptions

_JSON: Final = "json:"
_REFS: Final = frozenset({"BlockdevRef", "BlockdevRefOrNull"})
#: Children that are files; all others have a format.
_FILES: Final = frozenset({"file", "image", "data-file"})
_TEMPLATE: Final = "overlap-check.template"


async def define(
    graph: Graph, flat: dict[str, str], filename: str | None, aio: str | None = None
) -> tuple[BlockdevOptions, bool]:
    """Return the definition of a drive's node, and whether its format was found by probing.

    Args:
        graph: Where images are looked at.
        flat: The options with dotted names.
        filename: The image, None if the options say it.
        aio: How the files below are read, unless they say it.

    Raises:
        QmpError: They don't fit, or an image can't be looked at.
    """
    tree = keyval.tree_of(with_template(flat).items())
    if isinstance(tree.get("file"), dict) and "filename" in tree["file"] and filename is not None:
        raise QmpError("Can't specify 'file' and 'filename' options at the same time")
    if filename is not None and filename.startswith(_JSON):
        tree = _from_json(filename.removeprefix(_JSON)) | tree
        filename = None
    probed = "driver" not in tree
    complete = await _image(graph, tree, filename)
    if aio is not None:
        _set_aio(complete, aio)
    given: BlockdevOptions = visit(_shape(complete["driver"]), complete)
    return given, probed


def with_template(flat: dict[str, str]) -> dict[str, str]:
    """Return the options with a template of the overlap checks beside exceptions from it.

    Raises:
        QmpError: There are two.
    """
    template = flat.get("overlap-check")
    if template is None or not any(key.startswith("overlap-check.") for key in flat):
        return flat
    other = flat.get(_TEMPLATE, template)
    if other != template:
        raise QmpError(
            f"Conflicting values for qcow2 options 'overlap-check' ('{template}') and"
            f" '{_TEMPLATE}' ('{other}')"
        )
    rest = {key: value for key, value in flat.items() if key != "overlap-check"}
    return rest | {_TEMPLATE: template}


def remember(node: Node, said: Mapping[str, Tree]) -> None:
    """Let nodes show their options as they were said.

    Args:
        node: What the options have made.
        said: The options as a tree of texts.
    """
    for name, value in said.items():
        child = node.children.get(name)
        if isinstance(value, str):
            node.said[name] = value
        elif child is not None and isinstance(value, dict):
            remember(child.node, value)
    node.described_anew()


def _set_aio(definition: dict[str, Any], aio: str) -> None:
    if definition["driver"] == "file":
        definition.setdefault("aio", aio)
    for child in definition.values():
        if isinstance(child, dict) and "driver" in child:
            _set_aio(child, aio)


async def _image(graph: Graph, tree: dict[str, Tree], filename: str | None) -> dict[str, Any]:
    """Complete the definition of a node that has a format."""
    driver = tree.get("driver")
    if driver is None:
        if filename is None and "file" not in tree:
            raise QmpError("Must specify either driver or file")
        tree["file"] = _with_name(tree.get("file"), filename)
        tree["driver"] = await _probe(graph, tree["file"])
        return await _node(graph, tree)
    if not isinstance(driver, str) or driver not in BLOCKDEV_MODELS:
        raise QmpError(f"Unknown driver '{driver}'")
    if filename is not None:
        _place_name(tree, driver, filename)
    return await _node(graph, tree)


def _place_name(tree: dict[str, Tree], driver: str, filename: str) -> None:
    """Put a file name where the driver expects it."""
    members = _shape(driver).by_wire
    if "filename" in members:
        tree.setdefault("filename", filename.removeprefix("file:"))
    elif "image" in members:
        tree["image"] = _with_name(tree.get("image"), filename)
    elif DRIVERS[driver].is_protocol:
        if filename != f"{driver}://":
            raise QmpError(f"The only allowed filename for this driver is '{driver}://'")
    else:
        tree["file"] = _with_name(tree.get("file"), filename)


def _with_name(child: "Tree | None", filename: str | None) -> Tree:
    """Return a child's options with the file name that was said of its parent."""
    if filename is None:
        return child if child is not None else {}
    return {"filename": filename, **(child if isinstance(child, dict) else {})}


async def _probe(graph: Graph, child: Tree) -> str:
    """Return the format of what a child holds."""
    if isinstance(child, str):
        graph.find(child)
        return "raw"
    assert isinstance(child, dict)
    found = _file(child)
    while isinstance(image := found.get("image"), dict):
        found = _file(image)
    if found["driver"] != "file" or not isinstance(name := found.get("filename"), str):
        return "raw"
    return await images.probe(graph, name, reading=True)


def _file(tree: dict[str, Tree]) -> dict[str, Tree]:
    """Return the options of a file with what its name says."""
    if "driver" in tree:
        return tree
    name = tree.get("filename")
    if not isinstance(name, str):
        return {"driver": "file", **tree}
    rest = {key: value for key, value in tree.items() if key != "filename"}
    if name.startswith(_JSON):
        return _file(_from_json(name.removeprefix(_JSON)) | rest)
    if name in {f"{driver}://" for driver in DRIVERS}:
        return {"driver": name.removesuffix("://"), **rest}
    return {**file_definition(name), **rest}


def _from_json(text: str) -> dict[str, Tree]:
    try:
        value = options.json_object(text)
    except QmpError as error:
        raise QmpError(f"Could not parse the JSON options: {error.desc}") from error
    if not isinstance(value, dict):
        raise QmpError("Invalid JSON object given")
    for key in ("driver", "file"):
        if isinstance(value.get(key), int | float):  # Source: QEMU takes no number for a name
            del value[key]
    flat: dict[str, str] = {}
    _flatten(value, "", flat)
    return keyval.tree_of(flat.items())


def texts_of(filename: str | None) -> dict[str, Tree]:
    """Return the options in a file name that is JSON, as far as they are texts there."""
    if filename is None or not filename.startswith(_JSON):
        return {}
    flat: dict[str, str] = {}
    _flatten(options.json_object(filename.removeprefix(_JSON)), "", flat, only_texts=True)
    return keyval.tree_of(flat.items())


def _flatten(value: Any, path: str, flat: dict[str, str], *, only_texts: bool = False) -> None:
    """Write JSON down as options have it.

    Raises:
        QmpError: It is nested too deeply.
    """
    if path.count(".") > MAX_DEPTH:
        raise QmpError("JSON nesting depth limit exceeded")
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            _flatten(item, f"{path}.{key}" if path else str(key), flat, only_texts=only_texts)
    elif only_texts and not isinstance(value, str):
        return
    elif isinstance(value, bool):
        flat[path] = "on" if value else "off"
    elif value is not None:
        flat[path] = str(value)
    elif (
        path.rpartition(".")[2] == "backing"
    ):  # that there is none; else null is as good as unsaid
        flat[path] = ""


async def _node(graph: Graph, tree: dict[str, Tree]) -> dict[str, Any]:
    """Give all options of a node their types, and complete its children."""
    driver = str(tree["driver"])
    if driver not in BLOCKDEV_MODELS:
        raise QmpError(f"Unknown driver '{driver}'")
    members = _shape(driver).by_wire
    complete: dict[str, Any] = {}
    if driver == "raw":  # it looks at its own options first
        own = {key: value for key, value in tree.items() if key in members}
        _values(driver, own, complete)
    for key, member in members.items():
        if member.required and key not in tree and _is_ref(member.shape):
            raise QmpError(f'A block device must be specified for "{key}"')
    for key, value in tree.items():
        if key in members and _is_ref(members[key].shape):
            complete[key] = await _child(graph, complete, tree, key)
        else:
            _values(driver, {key: value}, complete)
    for key, member in members.items():
        if member.required and key not in complete:
            raise QmpError(f"Parameter '{key}' is missing")
    return complete


def _values(driver: str, tree: dict[str, Tree], complete: dict[str, Any]) -> None:
    """Give the options that are no children their types."""
    members = _shape(driver).by_wire
    for key, value in tree.items():
        if key == "encrypt" and driver == "qcow2":
            _check_plain(value)
        elif key not in members:
            raise _unexpected(driver, key, value)
        elif not _is_ref(shape := members[key].shape):
            complete[key] = _value(driver, shape, value, key)


def _value(driver: str, shape: Shape, value: Tree, path: str) -> Any:
    if isinstance(value, str):
        return value_of(shape, path, value)
    if isinstance(shape, Alternate):
        shape = next((arm for arm in shape.arms if isinstance(arm, Struct)), shape)
    if not isinstance(shape, Struct) or not isinstance(value, dict):
        return typed(shape, value, path)
    found: dict[str, Any] = {}
    for key, below in value.items():
        if key not in shape.by_wire:
            raise _unexpected(driver, f"{path}.{key}", below)
        found[key] = _value(driver, shape.by_wire[key].shape, below, f"{path}.{key}")
    return found


def _check_plain(encryption: Tree) -> None:
    """Refuse what says that an image is encrypted; no image that we open is.

    Raises:
        QmpError: Its format is given. Source: QEMU lets the rest pass.
    """
    if not isinstance(encryption, dict):
        raise _unexpected("qcow2", "encrypt", encryption)
    if "format" in encryption:
        raise QmpError(
            f"No encryption in image header, but options specified format '{encryption['format']}'"
        )


async def _child(
    graph: Graph, parent: dict[str, Any], tree: dict[str, Tree], key: str
) -> str | dict[str, Any] | None:
    """Return a child's complete definition, or the name of the node that it is."""
    value = tree[key]
    if not isinstance(value, dict):
        return str(value) or None
    if key in _FILES:
        return await _node(graph, _file(value))
    if key != "backing":
        return await _image(graph, value, None)
    try:
        named = value.get("file")
        if not isinstance(named, str) and not (isinstance(named, dict) and "filename" in named):
            file = await _child(graph, parent, tree, "file")
            said = await _said_by_image(graph, str(tree["driver"]), file)
            if isinstance(named, dict) and isinstance(below := said.get("file"), dict):
                said["file"] = below | named
            value = value | said if isinstance(named, dict) else said | value
        return await _image(graph, value, None)
    except QmpError as error:
        raise QmpError(f"Could not open backing file: {error.desc}") from error


async def _said_by_image(graph: Graph, driver: str, file: Any) -> dict[str, Tree]:
    """Return what an image says of its backing file; nothing if it has none."""
    alone = {"driver": driver, "file": file, "backing": None, "read-only": True}
    with graph.names_unused():
        node = await graph.open(visit(_shape(driver), alone | {"force-share": True}))
        try:
            found = await describe.image_info(node, flat=True)
        finally:
            await graph.release(node)
    if "backing-filename" not in found:
        return {}
    name = found.get("full-backing-filename") or found["backing-filename"]
    said: dict[str, Tree] = {"file": {"filename": name}}
    if found.get("backing-filename-format"):
        said["driver"] = found["backing-filename-format"]
    return said


def _shape(driver: str) -> Struct:
    return struct_of(BLOCKDEV_MODELS[driver])


def _unexpected(driver: str, key: str, value: Tree) -> QmpError:
    while isinstance(value, dict) and value:
        inner, value = next(iter(value.items()))
        key = f"{key}.{inner}"
    if DRIVERS[driver].is_protocol:
        return QmpError(f"Block protocol '{driver}' doesn't support the option '{key}'")
    return QmpError(f"Block format '{driver}' does not support the option '{key}'")


def _is_ref(shape: Shape) -> bool:
    """Tell whether a member is a child."""
    return isinstance(shape, Alternate) and shape.name in _REFS
