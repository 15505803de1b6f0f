import pytest

from qmpfleece.cli.words import size_text, time_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1 << 20, "1.0 MiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (1536 << 10, "1.5 MiB"),
        (64 << 20, "64.0 MiB"),
        (230 << 30, "230 GiB"),
        (1 << 63, "8.0 EiB"),
    ],
)
def test_sizes_have_a_binary_unit(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (9.99, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (185, "3:05"),
        (7209, "2:00:09"),
    ],
)
def test_times_are_short(seconds, text):
    assert time_text(seconds) == text
