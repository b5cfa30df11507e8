"""Tokens as people write them into a file."""

import pytest

from runtime.server.access import Access
from runtime.server.faults import Fault

ANN, BOB = "anns-secret-token", "bobs-secret-token"


@pytest.mark.parametrize(
    "content",
    [
        f"{ANN} Ann\n{BOB} Bob B.\n".encode(),
        f"{ANN}\tAnn\r\n\r\n# others\r\n  {BOB} \t Bob B. \r\n".encode("utf-8-sig"),
    ],
)
def test_tokens_are_read(tmp_path, content):
    path = tmp_path / "tokens"
    path.write_bytes(content)
    access = Access.from_file(path)
    assert access.admit(f"Bearer {ANN}") == "Ann"
    assert access.admit(f"bearer  {BOB}") == "Bob B."
    with pytest.raises(Fault, match="unknown"):
        access.admit(f"Bearer {ANN} Ann")


def test_a_token_without_a_name_is_called_by_its_line(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"\n{ANN}\n")
    assert Access.from_file(path).admit(f"Bearer {ANN}") == "token 2"


def test_tokens_of_one_name_have_a_quota_each(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"{ANN} us\n{BOB} us\n")
    access = Access.from_file(path, a_minute=1)
    for token in (ANN, BOB):
        assert access.admit(f"Bearer {token}") == "us"
        with pytest.raises(Fault, match="used up its 1 requests"):
            access.admit(f"Bearer {token}")
