import sys

from tests.tools.server_checks.command import main

sys.exit(main())
