import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block.hostfile.names import file_definition, innermost_filename

FILE = {"driver": "file", "filename": "a"}


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("a", FILE),
        ("file:a", FILE),
        ("./b:c", {"driver": "file", "filename": "./b:c"}),
        ("blkdebug::a", {"driver": "blkdebug", "image": FILE}),
        ("blkdebug:c:file:a", {"driver": "blkdebug", "image": FILE, "config": "c"}),
        (
            "blkdebug::blkdebug::a",
            {"driver": "blkdebug", "image": {"driver": "blkdebug", "image": FILE}},
        ),
    ],
)
def test_names_mean_files_or_what_their_protocol_says(name, definition):
    assert file_definition(name) == definition
    assert innermost_filename(definition) == definition.get("filename", "a")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("zz:a", "Unknown protocol 'zz'"),
        ("qcow2:a", "Unknown protocol 'qcow2'"),
        ("blkdebug::zz:a", "Unknown protocol 'zz'"),
        ("blkdebug:a", "blkdebug requires both config file and image path"),
        ("blkdebug::", "The 'file' block driver requires a file name"),
        ("blkdebug::" * 100_000 + "a", "File name too long"),
    ],
)
def test_names_that_mean_nothing_are_refused(name, text):
    with pytest.raises(QmpError, match=text):
        file_definition(name)
