"""Makes `python -m deploy.labkit` the lab's command."""

import sys

from deploy.labkit.cli import main

sys.exit(main())
