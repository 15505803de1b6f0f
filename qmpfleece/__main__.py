"""``python -m qmpfleece``: the same as the program ``qmpfleece``."""

import sys

from qmpfleece.cli.main import main

sys.exit(main())
