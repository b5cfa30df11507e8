"""Forms as clients send them: read whole, or refused."""

import asyncio

import httpx
import pytest

from runtime.server.access import Access
from runtime.server.app import create_app
from runtime.server.correction_store import CorrectionStore, read_rows
from runtime.server.limits import Limits
from runtime.server.service import Service
from tests.server.conftest import Running

END = b"--B--\r\n"
FORM = "multipart/form-data; boundary=B"


def part(name: str, value: bytes | str, file_name: str | None = None) -> bytes:
    file = "" if file_name is None else f'; filename="{file_name}"'
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"


def send(server: Running, body: bytes, kind: str = FORM) -> httpx.Response:
    url = f"{server.url}/v1/audio/transcriptions"
    return httpx.post(url, content=body, headers={"Content-Type": kind}, timeout=60)


@pytest.fixture
def form(clip) -> bytes:
    return part("model", "whisper-1") + part("file", clip, "a.ogg")


def test_a_form_that_is_cut_off_is_refused(server, form, picture):
    image = part("image", picture, "a.webp")
    for body in (
        form,
        form + image,
        form + image[:-500],
        form + part("response_format", "text"),
        form + b"--B\r\nContent-Disposition: form-da",
        form + image + END[:-3],
        b"",
    ):
        refused = send(server, body)
        assert refused.status_code == 400, refused.text
        assert "its closing boundary is missing" in refused.json()["error"]["message"]
    whole = send(server, form + image + END).json()
    assert whole["earsight"]["mode"] == "multimodal"


@pytest.mark.parametrize(
    ("before", "end", "kind"),
    [
        (b"", END, FORM),
        (b"", END.rstrip(), FORM),
        (b"", END + b"\r\n", FORM),
        (b"", END + b"an epilogue", FORM),
        (b"", END, "Multipart/Form-Data; boundary=B"),
        (b"", END, 'multipart/form-data; charset=utf-8; boundary="B"'),
        (b"\r\n", END, FORM),
    ],
)
def test_what_clients_send_is_read(server, form, before, end, kind):
    answer = send(server, before + form + end, kind)
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"]


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=C",
        "multipart/form-data; boundary=B; charset=undefined",
        "multipart/form-database; boundary=B",
        "application/x-www-form-urlencoded",
    ],
)
def test_what_is_no_form_is_refused(server, form, kind):
    refused = send(server, form + END, kind)
    assert refused.status_code == 400
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}


def test_a_correction_that_is_cut_off_is_not_kept(pocket_asr, clip, picture, tmp_path):
    store = CorrectionStore(tmp_path / "c")
    fields = {"speaker": "ann", "how": "typed", "reference": "a log", "shown": "[]", "consent": "true"}
    body = b"".join(part(*item) for item in fields.items()) + part("file", clip, "a.ogg")
    body += part("image", picture, "a.webp")
    transport = httpx.ASGITransport(create_app(Service(pocket_asr, Limits(), Access(), corrections=store)))

    async def post(content: bytes) -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.post("/v1/corrections", content=content, headers={"Content-Type": FORM})

    assert asyncio.run(post(body)).status_code == 400
    assert read_rows(store.folder / "manifest.jsonl") == []
    assert asyncio.run(post(body + END)).status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "names", "mend"),
    [
        (
            "POST",
            "/v1/audio/transcriptions?response_format=text&alpha=7&n=",
            "response_format, alpha, n",
            "form",
        ),
        ("POST", "/v1/rescore?alpha=0.5", "alpha", "JSON object"),
        ("POST", "/v1/pictures?strict_image", "strict_image", "form"),
        ("POST", "/v1/corrections?consent=true", "consent", "form"),
        ("POST", "/v1/fit?%20%C3%BC=1", "ü", "JSON object"),
        ("POST", "/v1/fit?&", "something", "JSON object"),
        ("GET", "/v1/models?limit=5", "limit", "leave it away"),
        ("DELETE", "/v1/corrections/speakers/ann?dry_run=1", "dry_run", "leave it away"),
    ],
)
def test_fields_in_the_query_are_refused_by_name(server, form, method, path, names, mend):
    refused = httpx.request(method, f"{server.url}{path}", content=form + END, headers={"Content-Type": FORM})
    error = refused.json()["error"]
    assert refused.status_code == 400
    assert f"{names} in the query" in error["message"]
    assert mend in error["message"]
    if names != "something":
        assert error["param"].strip() == names.split(",")[0]


def test_a_query_is_no_fault_where_browsers_and_probes_send_one(server):
    for path in ("/?utm_source=mail", "/readyz?verbose", "/livez?1", "/openapi.json?v=1"):
        assert server.get(path).status_code == 200


def test_a_value_is_repeated_in_part(server, clip):
    """curl's `-F "file=<a.wav"` sends a whole recording as text."""
    refused = send(server, part("model", "whisper-1") + part("file", clip * 50) + END)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "file")
    assert error["message"].startswith("file is 'OggS")
    assert "characters); expected a file, sent as a part" in error["message"]
    assert "curl: -F file=@PATH" in error["message"]
    assert len(error["message"]) < 400
    body = {"model": ["x"] * 10_000, "image_id": "a", "texts": ["a"]}
    long = httpx.post(f"{server.url}/v1/fit", json=body).json()["error"]
    assert long["message"] == f"model is {repr(body['model'])[:40]}…; expected text of at most 200 characters"
    short = httpx.post(f"{server.url}/v1/fit", json=body | {"model": 7}).json()["error"]
    assert short["message"] == "model is 7; expected text of at most 200 characters"
