"""`python -m bench.gpu_check`."""

import sys

from bench.commands.gpu_check import main

if __name__ == "__main__":
    sys.exit(main())
