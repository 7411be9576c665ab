"""``python -m minorant``: the command line."""

import sys

from minorant.cli import main

sys.exit(main())
