# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs tests against one implementation and compares what they print with their .out files.

Exit status: 0 all the same (or all recorded), 1 a test failed or printed something else,
2 wrong usage, 77 the implementation is not there, so that nothing was run.
"""

import argparse
import difflib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
TESTS: Final = ("image-fleecing", "257")
#: Implementation -> the program that a test starts.
PROGRAMS: Final = {"qmpfleece": "qmpfleece-qemu", "qemu": "qemu-system-x86_64"}
NOT_RUN: Final = 77
#: Seconds after which a test is ended.
TIME_LIMIT: Final = 300


def find(program: str) -> str | None:
    """Find a program beside the running Python, in the checkout's .venv, or in PATH."""
    beside = [Path(sys.executable).parent, HERE.parent / ".venv" / "bin"]
    return shutil.which(program, path=os.pathsep.join([*map(str, beside), os.environ["PATH"]]))


def run_test(name: str, program: str) -> tuple[int | None, bytes, str]:
    """Run one test in a directory of its own.

    Returns:
        Its exit status (None: it took too long and was ended), what it printed, and what
        explains a failure: its stderr and the text of the programs that it started.
    """
    with tempfile.TemporaryDirectory(prefix="iotests-") as scratch:
        environment = os.environ | {
            "IOTESTS_PROGRAM": program,
            "IOTESTS_SCRATCH": scratch,
            "PYTHONPATH": str(HERE.parent),
        }
        process = subprocess.Popen(
            [sys.executable, HERE / name],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that it can be ended with all that it started
        )
        status: int | None
        try:
            output, errors = process.communicate(timeout=TIME_LIMIT)
            status = process.returncode
        except BaseException as ended:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            status = None
            if not isinstance(ended, subprocess.TimeoutExpired):
                raise
        text = errors.decode(errors="replace")
        log = Path(scratch) / "program.log"
        if status != 0 and log.exists():
            lines = log.read_text(errors="replace").splitlines()[-20:]
            text += "\n".join(["last lines of the program's output:", *lines, ""])
    return status, output, text


def difference(expected: bytes, got: bytes, name: str) -> str:
    """Return a unified diff; lines that differ in bytes that are not text are escaped."""
    first, second = (
        data.decode(errors="backslashreplace").splitlines(keepends=True)
        for data in (expected, got)
    )
    return "".join(difflib.unified_diff(first, second, f"{name}.out", f"{name}, this run"))


def check(name: str, program: str, reference: Path, *, record: bool) -> bool:
    """Run one test, print its outcome, and say whether it is good."""
    begin = time.monotonic()
    status, output, errors = run_test(name, program)
    outcome = f"{time.monotonic() - begin:.1f} s"
    expected_file = reference / f"{name}.out"
    expected = expected_file.read_bytes() if expected_file.exists() else b""
    if status != 0:
        how = "took too long" if status is None else f"ended with status {status}"
        print(f"{name}: FAILED, {how} ({outcome})\n{errors}", flush=True)
    elif record:
        expected_file.write_bytes(output)
        print(f"{name}: recorded ({outcome})", flush=True)
        return True
    elif output == expected:
        print(f"{name}: pass ({outcome})", flush=True)
        return True
    else:
        print(f"{name}: FAILED, the output differs ({outcome})", flush=True)
    print(difference(expected, output, name), flush=True)
    return False


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for and return the exit status."""
    parser = argparse.ArgumentParser(prog="iotests/run", description="Run the iotests.")
    parser.add_argument("--impl", choices=PROGRAMS, default="qmpfleece", help="what to test")
    parser.add_argument(
        "--record", action="store_true", help="write the .out files (only with --impl qemu)"
    )
    parser.add_argument(
        "--reference", type=Path, default=HERE, help="directory of the .out files to compare with"
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"of {', '.join(TESTS)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(TESTS):
        parser.error(f"no such test: {', '.join(sorted(unknown))}")
    if options.record and (options.impl != "qemu" or options.reference != HERE):
        parser.error("only the real QEMU is recorded, and only here: it is the oracle")
    program = find(PROGRAMS[options.impl])
    if program is None:
        print(f"not run: {PROGRAMS[options.impl]} is not there")
        return NOT_RUN
    results = [
        check(name, program, options.reference, record=options.record)
        for name in options.names or TESTS
    ]
    return 0 if all(results) else 1
