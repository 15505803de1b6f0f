"""``qmpfleece``: each verb is a module of its own, imported when it is asked for."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    if argv is None:
        from qmpfleece.cli import streams

        streams.begin()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:
        from qmpfleece.cli import qsd

        return qsd.main(arguments[1:], program="qmpfleece serve")
    from qmpfleece.cli.arguments import parser

    given = parser().parse_args(arguments)
    match given.verb:
        case "fleece":
            from qmpfleece.cli import fleece

            return fleece.main(given)
        case "pull":
            from qmpfleece.cli import pull

            return pull.main(given)
        case _:
            from qmpfleece.cli import demo

            return demo.main(given)
