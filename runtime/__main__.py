"""`python -m runtime`."""

import signal
import sys

# While modules are loaded, Ctrl-C ends the process at once; `run_guarded` then answers it with a line.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from runtime.commands.console import packages_needed  # noqa: E402

with packages_needed("python -m runtime"):
    from runtime.commands.main import main

sys.exit(main())
