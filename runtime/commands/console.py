"""What the command lines of all three packages share: exit statuses, one-line errors, logging."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtime.errors import EarsightError, PackageMissingError
from runtime.extras import missing_packages_named

EXIT_DONE = 0
EXIT_FAULT = 1  # a fault of the program
EXIT_UNUSABLE_INPUT = 2  # as argparse itself uses it
EXIT_INTERRUPTED = 130  # 128 + SIGINT, the shell's convention


def run_guarded(program: str, run: Callable[[], int]) -> int:
    """Call `run` and turn the project's own errors into one line on standard error.

    Args:
        program: Name that starts the line, for example "python -m runtime".
        run: The command; returns its exit status.

    Returns:
        The exit status of `run`, 2 for an `EarsightError`, 130 for Ctrl-C. Any other exception is a
        defect and passes through with its traceback (Python then exits with status 1).
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        with _interrupts_raised(), missing_packages_named():
            return run()
    except EarsightError as error:
        _print_line(program, error)
        return EXIT_UNUSABLE_INPUT
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone: not an error of ours, and nobody is left to tell.
        sys.stderr.close()
        return EXIT_DONE


@contextmanager
def packages_needed(program: str) -> Iterator[None]:
    """End the program with one line and status 2 where the modules of a command lack a package.

    Args:
        program: As in `run_guarded`.

    Raises:
        SystemExit: As argparse raises it for wrong options.
    """
    try:
        with missing_packages_named():
            yield
    except PackageMissingError as error:
        _print_line(program, error)
        raise SystemExit(EXIT_UNUSABLE_INPUT) from error


def _print_line(program: str, error: EarsightError) -> None:
    message = " ".join(str(error).split())
    print(f"{program}: {message}", file=sys.stderr)


@contextmanager
def _interrupts_raised() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt` in a program whose `__main__` left it to the system."""
    left_to_the_system = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    if left_to_the_system:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if left_to_the_system:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
