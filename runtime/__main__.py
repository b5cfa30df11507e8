"""`python -m runtime`."""

import signal
import sys

# While modules are loaded, Ctrl-C ends the process at once; `run_guarded` then answers it with a line.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from runtime.commands.main import main  # noqa: E402

sys.exit(main())
