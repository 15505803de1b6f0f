"""The union of all drivers' options."""

import pytest
from pydantic import ValidationError

from qmpfleece.block.driver import DRIVERS
from qmpfleece.qapi.blockdev import BLOCKDEV_MODELS, validate_blockdev

FILE = {"driver": "file", "filename": "/x"}


def test_every_driver_has_its_model():
    assert set(DRIVERS) <= set(BLOCKDEV_MODELS)
    for name, driver in DRIVERS.items():
        assert driver.driver_name == name


@pytest.mark.parametrize(
    "definition",
    [
        FILE,
        {"driver": "null-aio", "size": 5, "read-zeroes": True},
        {"driver": "raw", "file": "name"},
        {"driver": "raw", "node-name": "r", "file": FILE, "cache": {"direct": True}},
        {"driver": "raw", "file": {"driver": "raw", "file": FILE}, "offset": 512},
        {"driver": "copy-before-write", "file": FILE, "target": "t", "cbw-timeout": 5},
    ],
)
def test_definition_goes_through_unchanged(definition):
    options = validate_blockdev(definition)
    assert isinstance(options, BLOCKDEV_MODELS[definition["driver"]])
    # Also of nested definitions every member is kept, those of their own drivers included.
    assert options.to_wire() == definition
    assert validate_blockdev(options.to_wire()) == options


@pytest.mark.parametrize(
    "definition",
    [
        {},
        [],
        "name",
        {"driver": "none"},
        {"filename": "/x"},
        {"driver": "file"},
        {"driver": "file", "filename": "/x", "size": 5},
        {"driver": "file", "filename": 5},
        {"driver": "file", "filename": "/x", "read-only": "on"},
        {"driver": "file", "filename": "/x", "read_only": True, "discard": "maybe"},
        {"driver": "raw", "file": None},
        {"driver": "raw", "file": 5},
        {"driver": "raw", "file": {"driver": "none"}},
        {"driver": "raw", "file": {"driver": "raw", "file": {"driver": "file"}}},
        {"driver": "raw", "file": "name", "size": "1k"},
        {"driver": "raw", "file": "name", "cache": {"writeback": True}},
    ],
)
def test_what_is_no_definition_is_refused(definition):
    with pytest.raises(ValidationError):
        validate_blockdev(definition)


def test_definition_does_not_change_afterwards():
    options = validate_blockdev(FILE)
    with pytest.raises(ValidationError):
        options.filename = "/y"
