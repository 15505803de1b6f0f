import sys

import pytest

from tests.tools.programs import QMPFLEECE, run


def test_help_names_all_verbs():
    done = run(QMPFLEECE, "--help")
    assert done.returncode == 0
    for verb in ("serve", "fleece", "pull", "demo"):
        assert f"    {verb}" in done.stdout
        assert run(QMPFLEECE, verb, "--help").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "qmpfleece: the following arguments are required: VERB (see qmpfleece --help)"),
        (["demo", "--bogus"], "qmpfleece: unrecognized arguments: --bogus (see qmpfleece --help)"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments, message):
    done = run(QMPFLEECE, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{message}\n")


def test_an_unknown_verb_is_one_line_that_names_the_known_ones():
    done = run(QMPFLEECE, "backup")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for verb in ("serve", "fleece", "pull", "demo"):
        assert verb in done.stderr


def test_the_package_can_be_run_as_the_program_can():
    for arguments in (["--version"], ["pull", "--help"], ["bogus"]):
        one, other = run(QMPFLEECE, *arguments), run(sys.executable, "-m", "qmpfleece", *arguments)
        assert (one.returncode, one.stdout, one.stderr) == (
            other.returncode,
            other.stdout,
            other.stderr,
        )
