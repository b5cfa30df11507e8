"""Who may ask: tokens, their quotas, pages of other origins, and names that are not the server's."""

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from runtime.errors import SettingsError
from runtime.server.faults import Fault

SHORTEST_TOKEN: Final = 16  # characters
MINUTE_S: Final = 60.0
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(slots=True)
class Quota:
    """Requests of one token: a bucket that fills up again within a minute.

    Attributes:
        a_minute: Its size.
        left: What is in it.
        filled: When it was looked at last, `time.monotonic`.
    """

    a_minute: int
    left: float
    filled: float = field(default_factory=time.monotonic)

    def take(self) -> float:
        """Take a request out; return after how many seconds there is one again, 0 where one was taken."""
        now = time.monotonic()
        refill = (now - self.filled) * self.a_minute / MINUTE_S
        self.left, self.filled = min(float(self.a_minute), self.left + refill), now
        if self.left < 1.0:
            return (1.0 - self.left) * MINUTE_S / self.a_minute
        self.left -= 1.0
        return 0.0


@dataclass(slots=True)
class Access:
    """Tokens that may ask.

    Attributes:
        names: Name of each token by the SHA-256 of it; empty where everybody may ask.
        a_minute: Most requests of a token in a minute; None for any number.
        hosts: Names, in lower case, that requests may call this server by; None for any.
    """

    names: Mapping[bytes, str] = field(default_factory=dict)
    a_minute: int | None = None
    hosts: frozenset[str] | None = None
    _quotas: dict[bytes, Quota] = field(default_factory=dict)

    @classmethod
    def from_file(cls, path: Path, a_minute: int | None = None) -> "Access":
        """Read tokens.

        Args:
            path: One token a line, a name behind white space if wanted; empty lines and those that begin
                with # are passed over.
            a_minute: As in `Access`.

        Raises:
            SettingsError: The file cannot be read, holds no token, one twice, or one that is too short or
                that no header can hold.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"the tokens in {path} cannot be read: {error}") from error
        names: dict[bytes, str] = {}
        for number, line in enumerate(lines, start=1):
            token, *rest = line.split(maxsplit=1) or [""]
            if not token or token.startswith("#"):
                continue
            if not (token.isascii() and token.isprintable()):
                raise SettingsError(
                    f"{path}:{number}: a token of other characters than ASCII's, which no header holds"
                )
            if len(token) < SHORTEST_TOKEN:
                raise SettingsError(
                    f"{path}:{number}: a token of {len(token)} characters; expected {SHORTEST_TOKEN}: "
                    "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
                )
            if _digest(token) in names:
                raise SettingsError(f"{path}:{number}: this token stands there twice")
            names[_digest(token)] = rest[0].strip() if rest else f"token {number}"
        if not names:
            raise SettingsError(f"{path} holds no token; expected one a line")
        return cls(names, a_minute)

    def admit(self, authorization: str | None) -> str | None:
        """Let a request in.

        Args:
            authorization: Its header; "Bearer " and the token.

        Returns:
            The name of the token; None where everybody may ask.

        Raises:
            Fault: The token is missing or unknown, or has used up its quota.
        """
        if not self.names:
            return None
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Fault(
                401,
                "the token is missing; expected the header Authorization: Bearer …",
                code="missing_api_key",
            )
        digest = _digest(token.strip())
        name = self._name_of(digest)
        if name is None:
            raise Fault(401, "the token is unknown", code="invalid_api_key")
        if self.a_minute is not None:
            quota = self._quotas.setdefault(digest, Quota(self.a_minute, float(self.a_minute)))
            if (wait_s := quota.take()) > 0:
                raise Fault(
                    429,
                    f"the token has used up its {self.a_minute} requests a minute",
                    code="rate_limit_exceeded",
                    retry_after_s=int(wait_s) + 1,
                )
        return name

    def require_host(self, host: str | None) -> None:
        """Refuse a name that is not the server's: a page may have its own name lead here (DNS rebinding).

        Args:
            host: The header `Host`; None of programs that send none, which no browser is.

        Raises:
            Fault: It is none of `hosts`.
        """
        if self.hosts is None or host is None:
            return
        name = _name_in(f"//{host}")
        if name not in self.hosts:
            raise Fault(
                403,
                f"this server is not {host[:100]!r}; ask it as localhost, or start it with --allow-host NAME",
                code="foreign_host",
            )

    def _name_of(self, digest: bytes) -> str | None:
        """Compare with every token in a time that tells nothing about any of them."""
        found = None
        for known, name in self.names.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def refuse_foreign_page(origin: str | None, host: str | None) -> None:
    """Refuse what a page of another origin sends through the user's browser.

    Args:
        origin: The header of a request that a browser sends; None of other programs.
        host: The header `Host`.

    Raises:
        Fault: The page is not this server's own.
    """
    if origin is None:
        return
    try:
        netloc = urlsplit(origin).netloc
    except ValueError:  # no address, such as http://[::1
        netloc = ""
    if not netloc or netloc != host:
        raise Fault(403, f"a page of {origin[:100]} may not ask this server", code="foreign_origin")


def require_host_name(option: str, name: str) -> None:
    """Refuse what no header `Host` names.

    Raises:
        SettingsError: It has a scheme, a port or a path, or is no name at all.
    """
    if not name or _name_in(f"//{name}") not in (name.lower(), name.lower().strip("[]")):
        raise SettingsError(
            f"{option} is {name!r}; expected a name without scheme and port, such as asr.example.org"
        )


def _name_in(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:  # brackets that do not close
        return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
