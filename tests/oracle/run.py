"""Print transcripts of scenarios, or how they differ.

    python -m tests.oracle.run --list
    python -m tests.oracle.run NAME... [--impl qemu|qmpfleece]   the transcript
    python -m tests.oracle.run NAME... --diff                    how ours differs from QEMU's
    python -m tests.oracle.run --repeat 2                        that each is deterministic

Names are shell patterns; without one, all scenarios are meant.
"""

import argparse
import fnmatch
import sys

from tests.oracle import compare, scenario


def main() -> int:
    """Run the command line; the status is 1 when something differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--impl", choices=scenario.IMPLEMENTATIONS, default="qemu")
    parser.add_argument("--diff", action="store_true")
    parser.add_argument("--repeat", type=int, default=0)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    patterns = options.names or ["*"]
    names = [name for name in scenario.load() if any(fnmatch.fnmatch(name, p) for p in patterns)]
    failed = 0
    for name in names:
        program = scenario.pair_of(name).of(options.impl)
        if options.list:
            lines = [name]
        elif options.diff:
            lines = compare.differences(name)
            failed += bool(lines)
            lines = [f"{'DIFFERS' if lines else 'same'}: {name}", *lines]
        elif options.repeat:
            runs = {tuple(scenario.run(name, program)) for _ in range(options.repeat)}
            failed += len(runs) > 1
            lines = [f"{'DIFFERS' if len(runs) > 1 else 'same'}: {name}"]
            for versions in zip(*runs, strict=False):
                lines += [f"  {line}" for line in versions if len(set(versions)) > 1]
        else:
            lines = [f"=== {name}", *scenario.run(name, program)]
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    if options.diff or options.repeat:
        sys.stdout.write(f"{len(names)} scenarios, {failed} differ\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
