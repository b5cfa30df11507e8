"""`python -m tests.fuzz`."""

import sys

from tests.fuzz.runner.runner import main

sys.exit(main())
