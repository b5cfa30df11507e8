"""`python -m bench serve`: arrivals, what is counted, the search over rates, and a whole run."""

import asyncio
import json
from collections import Counter

import httpx
import pytest

from bench.commands import main as command
from bench.serving.client import NO_ANSWER, Client, Outcome, Query, ServerUnavailableError, make_query
from bench.serving.load import arrivals, at_random, together
from bench.serving.local_server import LocalServer
from bench.serving.scenarios import LoadSettings, measure, rate_figures, search_rates, status_counts
from runtime.errors import SettingsError
from tests.conftest import POCKET

DATA = POCKET / "data" / "test" / "manifest.jsonl"
QUERY = Query("a", 2.0, "multipart/form-data; boundary=x", b"body")


class Answering(httpx.AsyncBaseTransport):
    """Answers after `delay_s` with the statuses in turn, and keeps how many were under way at a time."""

    def __init__(self, statuses=(200,), delay_s=0.0):
        self.statuses, self.delay_s = statuses, delay_s
        self.asked = self.under_way = self.most = 0

    async def handle_async_request(self, request):
        await request.aread()
        status = self.statuses[self.asked % len(self.statuses)]
        self.asked += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.delay_s)
        self.under_way -= 1
        if status == NO_ANSWER:
            raise httpx.ReadError("cut")
        return httpx.Response(status, json={"text": "a"})


def client_of(transport):
    client = Client("http://server")
    client.http = httpx.AsyncClient(base_url="http://server", transport=transport)
    return client


def test_arrivals_are_poisson():
    times = arrivals(50.0, 200.0, seed=3)
    assert times == sorted(times)
    assert times == arrivals(50.0, 200.0, seed=3) != arrivals(50.0, 200.0, seed=4)
    assert len(times) == pytest.approx(10_000, abs=400)  # 4 standard deviations
    # Counts of a Poisson process vary as much as they are large.
    counts = Counter(int(time) for time in times)
    mean = len(times) / 200
    variance = sum((counts[second] - mean) ** 2 for second in range(200)) / 200
    assert variance == pytest.approx(mean, rel=0.4)


def test_an_open_loop_does_not_wait_for_answers():
    transport = Answering(delay_s=0.5)
    outcomes = asyncio.run(at_random(client_of(transport), [QUERY], 100.0, 0.5, seed=0))
    assert len(outcomes) == transport.asked == len(arrivals(100.0, 0.5, 0))
    assert transport.most > 25
    assert all(outcome.latency_s >= 0.5 for outcome in outcomes)


def test_a_closed_loop_keeps_so_many_under_way():
    transport = Answering(delay_s=0.01)
    outcomes = asyncio.run(together(client_of(transport), [QUERY] * 3, total=20, at_a_time=4))
    assert (len(outcomes), transport.most) == (20, 4)
    assert Counter(outcome.query for outcome in outcomes) == {0: 7, 1: 7, 2: 6}


def outcomes_of(*pairs):
    return [Outcome(0, 10.0, 10.0 + latency, status) for latency, status in pairs]


def test_goodput_counts_what_came_in_time():
    settings = LoadSettings(bound_s=1.0, seconds=4.0)
    figures = rate_figures(outcomes_of((0.5, 200), (2.0, 200), (0.1, 503), (1.0, NO_ANSWER)), 1.0, settings)
    assert figures["answered_per_s"] == pytest.approx(2 / 2.0)
    assert figures["goodput_per_s"] == pytest.approx(1 / 2.0)
    assert figures["statuses"] == {"200": 2, "503": 1, "no answer": 1}
    assert not figures["kept"]
    assert sorted(figures["latency"]["raw_s"]) == pytest.approx([0.5, 2.0])


@pytest.mark.parametrize(
    ("pairs", "kept"),
    [
        ([(0.5, 200)] * 99 + [(5.0, 200)], True),  # one in a hundred may be late
        ([(0.5, 200)] * 98 + [(5.0, 200)] * 2, False),
        ([(0.5, 200)] * 99 + [(0.1, 503)], False),  # none may be refused
        ([], False),
        ([(0.1, 503)], False),
    ],
)
def test_a_rate_is_kept_by_its_percentile_and_by_answering_all(pairs, kept):
    figures = rate_figures(outcomes_of(*pairs), 1.0, LoadSettings(bound_s=1.0))
    assert figures["kept"] is kept


@pytest.mark.parametrize(
    ("limit", "asked"),
    [
        (0.8, [0.5, 0.75, 0.875, 1.0, 2.0]),
        (0.1, [0.125, 0.25, 0.5, 1.0, 2.0]),
        (9.0, [0.5, 1.0, 2.0]),  # all were kept: nothing to narrow down
    ],
)
def test_the_highest_rate_is_narrowed_down(limit, asked):
    async def at_share(share):
        return {"share": share, "kept": share <= limit}

    rows = asyncio.run(search_rates(at_share, LoadSettings(shares=(2.0, 0.5, 1.0), refinements=2)))
    assert [row["share"] for row in rows] == asked


def test_scenarios_say_what_the_server_did():
    settings = LoadSettings(
        bound_s=5.0, seconds=0.3, requests=12, at_a_time=4, warm_up=1, shares=(0.5, 1.0), refinements=0
    )
    report = asyncio.run(measure(client_of(Answering(delay_s=0.02)), [QUERY], settings))
    assert report["single_stream"]["latency"]["count"] == 12
    assert 12 / 0.06 > report["offline"]["samples_per_s"] > 12 / 0.3
    assert report["offline"]["rtfx"] == pytest.approx(2.0 * report["offline"]["samples_per_s"])
    rates = report["server"]["rates"]
    assert [row["share"] for row in rates] == [0.5, 1.0]
    assert report["server"]["highest_rate"] == rates[1]["rate"] == report["offline"]["samples_per_s"]
    json.dumps(report)


def test_a_server_that_only_refuses_is_told():
    with pytest.raises(ServerUnavailableError, match=r"none of 8 requests.*\{'503': 8\}"):
        asyncio.run(measure(client_of(Answering((503,))), [QUERY], LoadSettings()))


def test_statuses_are_counted():
    assert status_counts(outcomes_of((1, 503), (1, 200), (1, 200))) == {"200": 2, "503": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"bound_s": 0.0},
        {"seconds": -1.0},
        {"requests": 0},
        {"warm_up": -1},
        {"shares": ()},
        {"shares": (0.0,)},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingsError, match="expected"):
        LoadSettings(**wrong)


def test_a_query_is_the_form_that_servers_read():
    query = make_query("a", 1.0, {"model": "m"}, {"file": ("a.ogg", b"sound")})
    assert query.content_type.startswith("multipart/form-data; boundary=")
    assert b'name="model"\r\n\r\nm\r\n' in query.body
    assert b'name="file"; filename="a.ogg"' in query.body


def run_command(*arguments):
    return command.main(["serve", "--data", str(DATA), *map(str, arguments)])


def test_a_whole_run(pocket_bundle, tmp_path, capsys):
    status = run_command(
        "--bundle", pocket_bundle.folder, "--output", tmp_path, "--limit", 4, "--requests", 6,
        "--seconds", 0.5, "--warm-up", 2, "--shares", "0.5,1", "--refinements", 0,
        "--serve-options", "--precision int8 --threads 1",
    )  # fmt: skip
    assert status == 0
    report = json.loads((tmp_path / "serve.json").read_text())
    assert report["schema"] == "earsight.serve/1"
    assert report["model"]["earsight"]["precision"] == "int8"
    assert report["data"]["with_picture"] == report["data"]["utterances"] == 4
    assert report["single_stream"]["statuses"] == report["offline"]["statuses"] == {"200": 6}
    assert len(report["server"]["rates"]) == 2
    page = (tmp_path / "index.html").read_text()
    assert page.count("<svg") == 2
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "SingleStream" in capsys.readouterr().out
    # The server that was started is gone.
    assert "GET" in (tmp_path / "server.log").read_text()
    with pytest.raises(ServerUnavailableError, match="does not answer"):
        asyncio.run(Client(_url(tmp_path / "server.log")).model())


def _url(log):
    return next(
        word
        for line in log.read_text().splitlines()
        for word in line.split()
        if word.startswith("http://127")
    )


def test_a_bundle_that_cannot_be_served_is_told(tmp_path, capsys):
    assert run_command("--bundle", tmp_path, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "the server ended at its start" in error
    assert "is not a bundle" in error


def test_no_server_is_told(tmp_path, capsys):
    assert run_command("--url", "http://127.0.0.1:9", "--output", tmp_path) == 2
    assert "does not answer" in capsys.readouterr().err


def test_options_of_a_server_that_runs_are_refused(tmp_path, capsys):
    assert run_command("--url", "http://a", "--output", tmp_path, "--serve-options", "--threads 1") == 2
    assert "--serve-options belongs to --bundle" in capsys.readouterr().err


def test_a_stopped_server_ends_with_status_0(pocket_bundle, tmp_path):
    with LocalServer(pocket_bundle.folder, tmp_path / "log", ["--threads", "1"]) as server:
        assert server.process.poll() is None
    assert server.process.returncode == 0
