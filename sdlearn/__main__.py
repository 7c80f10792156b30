"""`python -m sdlearn ...` is `sdlearn ...`; accelerate launch starts it this way."""

import sys

from .tools.cli import main

sys.exit(main())
