"""The command line as `python -m genaug`."""

import sys

from genaug.cli import main

sys.exit(main())
