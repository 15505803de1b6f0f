"""The texts are those of the real qemu-storage-daemon 7.2."""

import pytest

from qmpfleece.cli.scan import Option, Spec, UsageError, scan

SPECS = [
    Spec("blockdev"),
    Spec("export"),
    Spec("daemonize", argument=False),
    Spec("help", argument=False, short="h"),
    Spec("trace", short="T"),
    Spec("nbd-server"),
    Spec("chardev"),
    Spec("chart"),
]


def options(*arguments: str):
    return list(scan(arguments, SPECS))


def test_options_come_in_the_order_given():
    assert options("--export", "x", "--daemonize", "--blockdev=y,z=1", "-hT", "a", "-Tb") == [
        Option("export", "x", "--export x"),
        Option("daemonize", "", "--daemonize"),
        Option("blockdev", "y,z=1", "--blockdev=y,z=1"),
        Option("help", "", "-hT"),
        Option("trace", "a", "-hT a"),
        Option("trace", "b", "-Tb"),
    ]


def test_names_may_be_shortened():
    assert options("--blo", "x", "--nbd", "y") == [
        Option("blockdev", "x", "--blo x"),
        Option("nbd-server", "y", "--nbd y"),
    ]


def test_what_follows_two_dashes_is_ignored():
    assert options("-h", "--", "foo", "--bogus") == [Option("help", "", "-h")]


def test_an_option_s_argument_may_look_like_an_option():
    assert options("--export", "--blockdev") == [
        Option("export", "--blockdev", "--export --blockdev")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "unrecognized option '--bogus'"),
        (["--bogus=1"], "unrecognized option '--bogus=1'"),
        (["-Z"], "invalid option -- 'Z'"),
        (["-hZ"], "invalid option -- 'Z'"),
        (["--blockdev"], "option '--blockdev' requires an argument"),
        (["--exp"], "option '--export' requires an argument"),
        (["-T"], "option requires an argument -- 'T'"),
        (["--daemonize=x"], "option '--daemonize' doesn't allow an argument"),
        (["--char", "x"], "option '--char' is ambiguous; possibilities: '--chardev' '--chart'"),
    ],
)
def test_a_wrong_command_line_gets_qemus_words(arguments, message):
    with pytest.raises(UsageError) as caught:
        options(*arguments)
    assert caught.value.desc == message


def test_words_that_are_no_options_have_no_name():
    assert options("foo", "-h", "-", "--", "bar") == [
        Option("", "", "foo"),
        Option("help", "", "-h"),
        Option("", "", "-"),
    ]
    assert options("-") == [Option("", "", "-")]


def test_options_before_the_mistake_are_seen_first():
    found = scan(["-h", "--bogus"], SPECS)
    assert next(found).name == "help"
