"""Options that one way of running a command reads and another does not: refused there, not ignored."""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runtime.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Default:
    """The value of an option that nobody gave.

    Attributes:
        value: What the option is then.
    """

    value: object

    def __str__(self) -> str:
        """Return the value as `--help` shows it."""
        return str(self.value)


def mark_defaults(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Let an option that is not given be told from one that is given its default; see `read_options`.

    Args:
        parser: Has the options already.
        names: Of the options, as attributes of what was parsed.
    """
    parser.set_defaults(**{name: Default(parser.get_default(name)) for name in names})


def read_options(
    args: argparse.Namespace, mode: str, unread: Mapping[str, str] | None = None
) -> argparse.Namespace:
    """Return the options with the defaults of those that are not given.

    Args:
        args: What was parsed.
        mode: What the command is run with.
        unread: Options that this mode does not read, each with the mode that does; all of them marked.

    Raises:
        SettingsError: One of them is given.
    """
    given = [
        f"--{name.replace('_', '-')} (which belongs to {reader})"
        for name, reader in (unread or {}).items()
        if not isinstance(getattr(args, name), Default)
    ]
    if given:
        raise SettingsError(f"{mode} does not read {', '.join(given)}; leave it out, or run the other mode")
    return argparse.Namespace(
        **{name: value.value if isinstance(value, Default) else value for name, value in vars(args).items()}
    )
