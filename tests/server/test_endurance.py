"""The checks of tests/tools/server_checks, shortened, on the pocket bundle."""

from pathlib import Path

import pytest

from tests.conftest import POCKET
from tests.tools.server_checks.command import CHECKS
from tests.tools.server_checks.common import Setup

DATA = POCKET / "data" / "test" / "manifest.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "count"),
    [
        ("same", 100), ("disconnects", 60), ("sigterm", 3), ("connections", 60), ("bombs", None),
        ("fuzz", 300), ("soak", 1500),
    ],
)  # fmt: skip
def test_a_server_bears_it(check: str, count: int | None, pocket_bundle, tmp_path: Path) -> None:
    setup = Setup(
        bundle=pocket_bundle.folder, data=DATA, folder=tmp_path, options=(), limit=6, count=count,
        seconds=10.0, rounds=1, peer_python=None, peer_model="", seed=0,
    )  # fmt: skip
    result = CHECKS[check](setup)
    assert result["passed"], result
