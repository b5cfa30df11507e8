"""`python -m runtime serve`: what it refuses, and how it stops."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from runtime.commands import serve as serve_command
from runtime.commands.main import main, parse_args
from runtime.errors import SettingsError
from runtime.server.listening import bind, listen
from tests.conftest import ROOT
from tests.server.conftest import AUDIO


def serve(bundle, *options):
    command = [sys.executable, "-m", "runtime", "serve", "--bundle", str(bundle.folder), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--precision", "fp32", "--threads", "1", *options],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"running on (http://\S+)", line):
            break
    else:
        raise AssertionError("".join(lines))
    # Somebody has to read the log, or the server would wait for it.
    reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
    reader.start()
    end = time.monotonic() + 30
    while httpx.get(f"{found[1]}/readyz").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.05)
    return process, found[1], lines, reader


def test_it_answers_logs_and_drains(pocket_bundle):
    process, url, lines, reader = serve(pocket_bundle)
    clips = [path.read_bytes() for path in sorted(AUDIO.iterdir())[:8]]
    answers: list[httpx.Response] = []
    turned_away: list[bytes] = []

    def ask(content):
        fields = {"model": "whisper-1"}
        address = f"{url}/v1/audio/transcriptions"
        try:
            answers.append(httpx.post(address, data=fields, files={"file": content}, timeout=30))
        except httpx.ConnectError:  # it has stopped listening; whoever it listened to is answered
            turned_away.append(content)

    threads = [threading.Thread(target=ask, args=(content,)) for content in clips]
    for thread in threads:
        thread.start()
    while process.poll() is None and len(answers) < 1:  # some are answered, some are at work
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert process.wait(30) == 0
    reader.join(5)
    # Whoever was let in is answered; who came too late is told so.
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert len(answers) + len(turned_away) == len(clips)
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert [record["path"] for record in records if record["status"] == 200].count(
        "/v1/audio/transcriptions"
    ) == sum(answer.status_code == 200 for answer in answers)
    assert set(records[0]) == {"request_id", "method", "path", "status", "ms", "token"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "--tokens FILE, or --insecure"),
        (["--host", "example.org"], "--tokens FILE, or --insecure"),
        (["--tokens", "gone"], "cannot be read"),
        (["--tokens", "EMPTY"], "holds no token"),
        (["--tokens", "SHORT"], "expected 16"),
        (["--tokens", "TWICE"], "stands there twice"),
        (["--tokens", "UMLAUT"], "UMLAUT:1: a token of other characters than ASCII's"),
        (["--allow-host", "http://asr.example.org"], "--allow-host is 'http://asr.example.org'"),
        (["--allow-host", "asr.example.org:443"], "without scheme and port"),
        (["--allow-host", ""], "--allow-host is ''"),
        (["--requests-per-minute", "5"], "of each token of --tokens"),
        (["--limit-batch", "0"], "batch is 0"),
        (["--limit-audio-s", "nan"], "audio_s is nan"),
        (["--alpha", "2"], "alpha is 2"),
        (["--port", "99999"], "--port is 99999; expected a port from 0 to 65535"),
        (["--port", "-1"], "--port is -1"),
        (["--port", "TAKEN"], "is in use"),
        (["--metrics-port", "99999"], "--metrics-port is 99999"),
        (["--metrics-port", "0"], "expected a port from 1"),
        (["--metrics-port", "TAKEN"], "is in use"),
        (["--port", "18601", "--metrics-port", "18601"], "expected one each"),
        (["--host", "no-such-host.invalid", "--insecure"], "--host no-such-host.invalid: no address"),
        (["--host", "192.0.2.1", "--insecure"], "--host 192.0.2.1: no address of this machine"),
    ],
)
def test_what_cannot_be_served_is_refused(pocket_bundle, tmp_path, capsys, options, words):
    (tmp_path / "EMPTY").write_text("# none\n")
    (tmp_path / "SHORT").write_text("abc\n")
    (tmp_path / "TWICE").write_text("0123456789abcdef a\n0123456789abcdef b\n")
    (tmp_path / "UMLAUT").write_text("schlüssel-schlüssel\n", encoding="utf-8")
    options = [str(tmp_path / each) if (tmp_path / each).is_file() else each for each in options]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = [port if each == "TAKEN" else each for each in options]
        assert main(["serve", "--bundle", str(pocket_bundle.folder), "--precision", "fp32", *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_pages_call_it_by_its_own_names_alone(pocket_bundle):
    process, url, _, reader = serve(pocket_bundle, "--allow-host", "ASR.example.org")
    port = url.rpartition(":")[2]

    def ask(host, path="/v1/models", **headers):
        return httpx.get(f"{url}{path}", headers={"Host": host, **headers}).status_code

    try:
        for host in ("127.0.0.1", "LOCALHOST", "[::1]", "asr.example.org"):
            assert ask(f"{host}:{port}") == ask(host) == ask(host, Origin=f"https://{host}") == 200
        for host in ("evil.example", "localhost.evil.example", "[::1", "192.0.2.1"):
            assert ask(f"{host}:{port}", Origin=f"http://{host}:{port}") == 403
            assert ask(host, "/") == ask(host, "/v1/gallery") == 403
            assert ask(host) == ask(host, "/readyz") == 200  # programs, which send no origin
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        reader.join(5)


@pytest.mark.parametrize(
    ("options", "hosts"),
    [
        ([], {"localhost", "127.0.0.1", "::1"}),
        (["--host", "::1"], {"localhost", "127.0.0.1", "::1"}),
        (["--host", "127.0.0.2"], {"localhost", "127.0.0.1", "::1", "127.0.0.2"}),
        (["--tokens", "TOKENS"], None),
        (["--host", "0.0.0.0", "--insecure"], None),
        (
            ["--host", "0.0.0.0", "--tokens", "TOKENS", "--allow-host", "a.example"],
            {"localhost", "127.0.0.1", "::1", "0.0.0.0", "a.example"},
        ),
    ],
)
def test_names_that_it_answers_to(options, hosts):
    args = parse_args(["serve", "--bundle", "b", *options])
    assert serve_command._hosts(args, has_tokens="--tokens" in options) == hosts


def test_a_port_that_is_taken_is_told_before_the_bundle_is_read(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--bundle", "no-such-bundle", "--port", port]) == 2
    assert f"--port {port} at 127.0.0.1 is in use" in capsys.readouterr().err


def test_two_may_bind_a_port_and_one_listens():
    first = bind("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    second = bind("127.0.0.1", port)
    listen(first)
    with first[0], pytest.raises(SettingsError, match=f"--port {port} at 127.0.0.1 is in use"):
        listen(second)


def test_a_name_with_several_addresses_has_one_port():
    listeners = bind("localhost", 0)
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        listener.close()


def test_help_names_defaults_that_the_options_take(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "largest body of a request, bytes (default 26214400)" in told
    assert "e+" not in told


def test_without_the_extra_it_says_what_to_install(pocket_bundle, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--bundle", str(pocket_bundle.folder)]) == 2
    assert "pip install 'earsight[serve]'" in capsys.readouterr().err
