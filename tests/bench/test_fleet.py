"""Several processes write the n-best file of one: same bytes, same errors, nothing lost by kills."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from bench.commands.main import main as bench_main
from bench.manifest import Utterance, read_manifest
from bench.nbest import ray_crew
from bench.nbest.blocks import BLOCK, PartFolder, Task, blocks_of
from bench.nbest.corpus import CorpusSettings, write_corpus
from bench.nbest.crew import InProcess, require_same, shared_threads
from bench.nbest.failures import Failure, FailureLog
from bench.nbest.local_crew import MOST_DEATHS, LocalCrew
from bench.nbest.recognition import SHUFFLE_SEED, tasks_of
from bench.nbest.records import NBestHeader, NBestUtterance
from bench.nbest.writer import NBestWriter
from runtime.errors import InferenceError, ManifestError, NBestFileError, OutputError, SettingsError
from runtime.pipeline import MultimodalASR
from tests.conftest import POCKET, ROOT
from tests.tools import logged_pipeline

TEST_SET = POCKET / "data" / "test"
ROWS = [json.loads(line) for line in (TEST_SET / "manifest.jsonl").read_text().splitlines()]
KILLS = int(os.environ.get("KILLS", "50"))
SEED = int(os.environ.get("SEED", "0"))


def manifest_of(folder, count, broken=()):
    """A manifest of rows with ids of their own; the audio of some is no sound."""
    path = folder / "manifest.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for place in range(count):
            row = ROWS[place % len(ROWS)]
            audio = folder / f"{place}.wav" if place in broken else TEST_SET / row["audio"]
            if place in broken:
                audio.write_text("no sound")
            own = {"id": f"u{place:04d}", "audio": str(audio), "image": str(TEST_SET / row["image"])}
            file.write(json.dumps({**row, **own}) + "\n")
    return path


def mend(folder, places):
    for place in places:
        shutil.copyfile(TEST_SET / ROWS[place % len(ROWS)]["audio"], folder / f"{place}.wav")


def nbest(bundle, manifest, output, *more):
    options = ["--precision", "int8", "--threads", "1", "--provider", "cpu", "--num-beams", "2"]
    place = ("--bundle", str(bundle.folder), "--data", str(manifest), "--output", str(output))
    return bench_main(["nbest", *place, *options, *more])


@pytest.fixture(scope="module")
def clean(pocket_bundle, tmp_path_factory):
    """What one process writes of rows that are all usable."""
    folder = tmp_path_factory.mktemp("clean")
    assert nbest(pocket_bundle, manifest_of(folder, 40), folder / "n.jsonl") == 0
    return (folder / "n.jsonl").read_bytes()


@pytest.fixture
def open_pocket(pocket_bundle):
    return partial(
        MultimodalASR, pocket_bundle.folder, precision="int8", providers="cpu", threads=1, num_beams=2
    )


def left_in(folder):
    return {path.name for path in folder.iterdir()}


def test_processes_write_the_file_of_one(clean, pocket_bundle, tmp_path, capsys):
    manifest, record = manifest_of(tmp_path, 40), tmp_path / "run.json"
    assert (
        nbest(pocket_bundle, manifest, tmp_path / "n.jsonl", "--workers", "2", "--record", str(record)) == 0
    )
    assert (tmp_path / "n.jsonl").read_bytes() == clean
    assert left_in(tmp_path) == {"manifest.jsonl", "n.jsonl", "run.json"}
    written = json.loads(record.read_text())
    assert (written["crew"], written["workers"], written["threads"]) == ("workers", 2, 1)
    assert written["utterances"] == written["rows"] == 40
    assert 0 < written["start_s"] < written["wall_s"]
    assert written["output_bytes"] == len(clean)
    assert "40 utterances" in capsys.readouterr().out


def test_what_one_process_began_others_end(clean, pocket_bundle, tmp_path):
    manifest, output = manifest_of(tmp_path, 40), tmp_path / "n.jsonl"
    for beginning in (clean[: len(clean) // 3], b"".join(clean.splitlines(keepends=True)[:20])):
        output.write_bytes(beginning)  # in the middle of a line, and of a block
        assert nbest(pocket_bundle, manifest, output, "--workers", "1") == 0
        assert output.read_bytes() == clean


@pytest.mark.parametrize("crew", [(), ("--workers", "2")])
def test_rows_that_fail(crew, clean, pocket_bundle, tmp_path, capsys):
    """One behaviour, whoever recognises: stop at the first, or leave them out and name them."""
    broken = (3, 21, 22)
    manifest, output = manifest_of(tmp_path, 40, broken), tmp_path / "n.jsonl"
    lines = clean.splitlines(keepends=True)

    assert nbest(pocket_bundle, manifest, output, *crew) == 2
    message = capsys.readouterr().err
    assert "line 4 (u0003): " in message
    assert message.count("\n") == 1
    assert output.read_bytes() == b"".join(lines[:4])

    assert nbest(pocket_bundle, manifest, output, *crew, "--max-errors", "2") == 2
    assert "more rows failed than --max-errors 2" in capsys.readouterr().err

    assert nbest(pocket_bundle, manifest, output, *crew, "--max-errors", "3") == 0
    assert "37 utterances, 3 failed" in capsys.readouterr().out
    kept = [line for place, line in enumerate(lines[1:]) if place not in broken]
    assert output.read_bytes() == lines[0] + b"".join(kept)
    errors = [json.loads(line) for line in (tmp_path / "n.errors.jsonl").read_text().splitlines()]
    assert [(row["id"], row["line"], row["kind"]) for row in errors] == [
        (f"u{place:04d}", place + 1, "ManifestError") for place in broken
    ]
    assert all(f"line {row['line']} ({row['id']}): " in row["error"] for row in errors)

    mend(tmp_path, broken[1:])  # not all of them; without being told to, they are not tried again
    assert nbest(pocket_bundle, manifest, output, *crew, "--max-errors", "3") == 0
    assert "37 utterances, 3 failed" in capsys.readouterr().out
    assert nbest(pocket_bundle, manifest, output, *crew, "--max-errors", "3", "--retry-failed") == 0
    assert "39 utterances, 1 failed" in capsys.readouterr().out
    mend(tmp_path, broken)
    assert nbest(pocket_bundle, manifest, output, *crew) == 0
    assert json.loads(output.read_bytes().splitlines()[4])["id"] == "u0003"
    assert output.read_bytes() == clean
    assert not (tmp_path / "n.errors.jsonl").exists()


def test_both_tell_the_same_of_rows_that_fail(pocket_bundle, tmp_path):
    manifest = manifest_of(tmp_path, 20, (0, 19))
    for name, crew in (("one", ()), ("two", ("--workers", "2"))):
        assert nbest(pocket_bundle, manifest, tmp_path / f"{name}.jsonl", *crew, "--max-errors", "5") == 0
    for end in (".jsonl", ".errors.jsonl"):
        assert (tmp_path / f"one{end}").read_bytes() == (tmp_path / f"two{end}").read_bytes()


def test_a_missing_file_fails_with_its_row_where_rows_may_fail(pocket_bundle, tmp_path, capsys):
    manifest = manifest_of(tmp_path, 5, (1, 3))
    (tmp_path / "3.wav").unlink()
    mend(tmp_path, (1,))
    assert nbest(pocket_bundle, manifest, tmp_path / "n.jsonl") == 2
    assert "manifest.jsonl:4: audio file not found" in capsys.readouterr().err
    assert not (tmp_path / "n.jsonl").exists()
    assert nbest(pocket_bundle, manifest, tmp_path / "n.jsonl", "--max-errors", "1") == 0
    (row,) = (json.loads(line) for line in (tmp_path / "n.errors.jsonl").read_text().splitlines())
    assert row["id"] == "u0003"
    assert "not found" in row["error"]


def test_starting_afresh_forgets_what_failed(pocket_bundle, tmp_path, capsys):
    manifest, output = manifest_of(tmp_path, 4, (2,)), tmp_path / "n.jsonl"
    assert nbest(pocket_bundle, manifest, output, "--max-errors", "1") == 0
    mend(tmp_path, (2,))
    output.unlink()  # as the message about another bundle advises
    assert nbest(pocket_bundle, manifest, output, "--max-errors", "1") == 0
    assert "4 utterances\n" in capsys.readouterr().out
    assert not (tmp_path / "n.errors.jsonl").exists()


def test_parts_are_taken_where_they_fit(clean, open_pocket, tmp_path):
    utterances = read_manifest(manifest_of(tmp_path, 40))
    blocks = blocks_of(tasks_of(utterances))
    output = tmp_path / "n.jsonl"
    with LocalCrew(open_pocket, 1, output) as crew:
        parts = PartFolder(output, crew.header)
        told = {row["id"]: row for row in map(json.loads, clean.splitlines()[1:])}
        marked = [NBestUtterance(task.utterance.id, "marked") for task in blocks[1].tasks]
        parts.write(blocks[1], marked)
        assert parts.holds(blocks[1], failures=True)
        assert parts.holds(type(blocks[1])(1, blocks[1].tasks[3:]), failures=True)
        other = PartFolder(output, NBestHeader({"sha256": "another"}, {}))
        assert not other.holds(blocks[1], failures=True)
        # Of another row of that name, of a control with another picture; with a failure; damaged.
        parts.write(blocks[0], [Failure(t.utterance.id, 1, "a", "AudioError", "e") for t in blocks[0].tasks])
        assert parts.holds(blocks[0], failures=True)
        assert not parts.holds(blocks[0], failures=False)
        parts.path(2).write_text('{"rows": {')
        assert not parts.holds(blocks[2], failures=True)
        write_corpus(crew, utterances, output, CorpusSettings(progress=False))
    rows = [json.loads(line) for line in output.read_bytes().splitlines()[1:]]
    for place, row in enumerate(rows):
        taken = place // BLOCK == 1
        assert row["reference"] == ("marked" if taken else told[row["id"]]["reference"])
    assert left_in(tmp_path) == {"manifest.jsonl", "n.jsonl"}


def test_a_row_has_another_fingerprint_when_what_it_depends_on_changes():
    def fingerprint(control="b.png", line=1, **more):
        own = {"id": "u", "audio": Path("a.wav"), "reference": "r", "image": Path("a.png"), **more}
        wrong = Utterance("v", Path("b.wav"), "s", Path(control)) if control else None
        return Task(0, Utterance(**own, line=line), wrong).fingerprint

    changes = [{"id": "x"}, {"audio": Path("x")}, {"reference": "x"}, {"image": None}, {"image_id": "x"}]
    changes += [{"speaker": "x"}, {"group": "x"}, {"control": "x"}, {"control": None}]
    assert len({fingerprint(), *(fingerprint(**change) for change in changes)}) == 1 + len(changes)
    assert fingerprint(line=7) == fingerprint()


def test_blocks_begin_where_the_manifest_says():
    tasks = [Task(place, Utterance(str(place), Path("a"), ""), None) for place in (*range(5, 20), 70)]
    counts = [(block.number, len(block.tasks)) for block in blocks_of(tasks)]
    assert counts == [
        (0, 3),
        (1, 8),
        (2, 4),
        (8, 1),
    ]


def slow_controls(utterances):
    """The rule, as written down: a seeded order, each takes the next that differs."""
    seen = [utterance for utterance in utterances if utterance.image or utterance.image_id]
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(seen))
    for place, own in enumerate(order):
        for step in range(1, len(seen)):
            other = seen[order[(place + step) % len(seen)]]
            if (other.image, other.image_id) != (seen[own].image, seen[own].image_id):
                yield seen[own].id, other
                break


@pytest.mark.parametrize("pictures", [1, 2, 3, 40])
def test_controls_are_the_next_picture_that_differs(pictures):
    drawn = random.Random(pictures)
    for count in (0, 1, 2, 7, 60):
        utterances = [
            Utterance(str(i), Path("a"), "", Path(f"{drawn.randrange(pictures)}") if i % 5 else None)
            for i in range(count)
        ]
        found = {task.utterance.id: task.control for task in tasks_of(utterances) if task.control}
        assert found == dict(slow_controls(utterances))


def test_a_million_rows_of_one_picture_take_seconds():
    utterances = [Utterance(str(i), Path("a"), "", Path("p")) for i in range(20_000)]
    begin = time.process_time()
    assert not any(task.control for task in tasks_of(utterances))
    assert time.process_time() - begin < 2.0  # a search by pairs takes minutes


def test_lines_are_arranged_by_the_manifest(tmp_path):
    header = NBestHeader({}, {})
    with NBestWriter(tmp_path / "n.jsonl", header) as writer:
        for name in "dbüac":
            writer.write(NBestUtterance(name, "ü"))
        writer.arrange({"a": 0, "b": 1, "ü": 2, "c": 3})
    lines = (tmp_path / "n.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines[1:]] == ["a", "b", "ü", "c", "d"]
    assert json.loads(lines[0]) == header.to_dict()


def test_an_errors_file_that_is_none_is_named(tmp_path):
    (tmp_path / "n.errors.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(NBestFileError, match=r"n\.errors\.jsonl:1: expected an object with id"):
        FailureLog(tmp_path / "n.jsonl", resume=True)
    (tmp_path / "n.errors.jsonl").write_text("{")  # a torn line
    assert not FailureLog(tmp_path / "n.jsonl", resume=True).failed
    odd = Failure("u", 1, "a.wav", "os", "text")
    assert type(odd.to_error()) is ManifestError


def test_a_worker_that_dies_is_replaced(clean, pocket_bundle, tmp_path):
    manifest, output = manifest_of(tmp_path, 40), tmp_path / "n.jsonl"
    log = tmp_path / "log"
    open_logged = partial(logged_pipeline.open_logged, str(pocket_bundle.folder), str(log))
    with LocalCrew(open_logged, 1, output) as crew:
        first = crew._workers[0].process.pid
        results = crew.results(list(tasks_of(read_manifest(manifest))), failures=False)
        next(results)  # the first block is done, the second not begun
        os.kill(first, signal.SIGKILL)
        assert len(list(results)) == 39
        assert crew._workers[0].process.pid != first
    done = Counter(log.read_text().split())
    assert len(done) == 40


@pytest.mark.parametrize(
    ("opener", "error", "message"),
    [
        (logged_pipeline.end_process, InferenceError, f"{MOST_DEATHS} workers died while they opened"),
        (logged_pipeline.broken, RuntimeError, "a defect"),
    ],
)
def test_workers_that_cannot_begin(opener, error, message, tmp_path):
    with pytest.raises(error, match=message):
        LocalCrew(partial(opener, ""), 1, tmp_path / "n.jsonl")
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_what_is_refused(pocket_bundle, tmp_path, capsys, monkeypatch):
    manifest, output = manifest_of(tmp_path, 2), tmp_path / "n.jsonl"
    for options, message in (
        (("--workers", "0"), "workers is 0"),
        (("--max-errors", "-1"), "max_errors is -1"),
        (("--workers", "1", "--bundle", str(tmp_path)), "is not a bundle"),
    ):
        assert nbest(pocket_bundle, manifest, output, *options) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    place = ("--bundle", str(pocket_bundle.folder), "--data", str(manifest), "--output", str(output))
    assert bench_main(["nbest", *place, "--workers", "0"]) == 2  # no threads given to divide by
    assert "workers is 0" in capsys.readouterr().err
    monkeypatch.setattr(ray_crew, "ray", None)
    assert nbest(pocket_bundle, manifest, output, "--ray", "local") == 2
    assert "earsight[ray]" in capsys.readouterr().err
    with pytest.raises(SettingsError, match=r"worker 7 .* provider 'cpu' and 'cuda'"):
        require_same(NBestHeader({}, {"provider": "cuda"}), NBestHeader({}, {"provider": "cpu"}), "worker 7")
    assert [shared_threads(8, workers) for workers in (1, 3, 8, 20)] == [8, 2, 1, 1]


def test_a_part_that_is_not_seen_is_told(tmp_path):
    block = blocks_of([Task(0, Utterance("u", Path("a"), ""), None)])[0]
    parts = PartFolder(tmp_path / "n.jsonl", NBestHeader({}, {}))
    with pytest.raises(OutputError, match="every machine of a cluster must see the folder"):
        list(parts.read(block))
    parts.write(block, [NBestUtterance("v", "")])
    with pytest.raises(NBestFileError, match="no row 'u'"):
        list(parts.read(block))


def test_a_second_run_is_refused(open_pocket, tmp_path):
    utterances = read_manifest(manifest_of(tmp_path, 2))
    crew = InProcess(open_pocket)
    with NBestWriter(tmp_path / "n.jsonl", crew.header), pytest.raises(OutputError, match="another run"):
        write_corpus(crew, utterances, tmp_path / "n.jsonl", CorpusSettings(progress=False))


def workers_of(driver):
    workers = []
    for child in psutil.Process(driver.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by now, a zombie included
            if "spawn_main" in " ".join(child.cmdline()):
                workers.append(child)
    return workers


class Killer:
    """Runs drivers over one manifest and kills them and their workers at random moments."""

    WORKERS = 2

    def __init__(self, bundle, folder, rows, seed):
        manifest = manifest_of(folder, rows)
        self.output, self.log, self.rows = folder / "n.jsonl", folder / "log", rows
        assert nbest(bundle, manifest, folder / "undisturbed.jsonl") == 0
        self.expected = (folder / "undisturbed.jsonl").read_bytes()
        arguments = (bundle.folder, manifest, self.output, self.log, self.WORKERS)
        self.command = [sys.executable, "-m", "tests.tools.logged_pipeline", *map(str, arguments)]
        self.drawn, self.seen, self.kills = random.Random(seed), Counter(), 0

    def run(self, kills):
        """Kill so many in all, over as many files as it takes, and hold each file against the undisturbed."""
        while self.kills < kills:
            allowed = self._one_file(kills)
            assert self.output.read_bytes() == self.expected
            recognised = self.log.read_text().split()
            assert len(set(recognised)) == self.rows
            again = len(recognised) - self.rows
            assert again <= allowed, (again, allowed, self.seen)
            self.seen.update({"files": 1, "rows again": again, "rows again, at most": allowed})
            self.output.unlink()
            self.log.unlink()
        return self.kills, dict(self.seen)

    def _one_file(self, kills):
        """Write one file; return how many rows may have been recognised again: a block a killed worker."""
        allowed = 0
        while True:
            driver = subprocess.Popen(self.command, cwd=ROOT)
            while driver.poll() is None:
                try:
                    driver.wait(self.drawn.uniform(0.1, 2.0))
                except subprocess.TimeoutExpired:
                    if self.kills < kills:
                        allowed += self._kill(driver)
                    assert self.expected.startswith(self._written())
            if driver.returncode == 0:
                return allowed
            assert driver.returncode == -signal.SIGKILL

    def _kill(self, driver):
        workers = workers_of(driver)
        self.kills += 1
        if workers and self.drawn.random() < 0.5:
            self.drawn.choice(workers).kill()
            self.seen["workers killed"] += 1
            return BLOCK
        driver.kill()
        driver.wait()
        for worker in workers:  # they end by themselves
            worker.wait(10)
        self.seen["drivers killed"] += 1
        return BLOCK * len(workers)

    def _written(self):
        return self.output.read_bytes() if self.output.exists() else b""


def test_a_few_kills_cost_a_block_each(pocket_bundle, tmp_path):
    kills, seen = Killer(pocket_bundle, tmp_path, 200, seed=1).run(4)
    assert kills == 4, seen


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_cost_a_block_each(pocket_bundle, tmp_path):
    print(KILLS, SEED, Killer(pocket_bundle, tmp_path, 500, SEED).run(KILLS))


def test_ray_writes_the_file_of_one(clean, pocket_bundle, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    manifest = manifest_of(tmp_path, 40, (7,))
    record = ("--ray", "local", "--record", str(tmp_path / "run.json"))
    assert nbest(pocket_bundle, manifest, tmp_path / "n.jsonl", *record) == 2
    mend(tmp_path, (7,))
    assert nbest(pocket_bundle, manifest, tmp_path / "n.jsonl", *record) == 0
    assert (tmp_path / "n.jsonl").read_bytes() == clean
    assert json.loads((tmp_path / "run.json").read_text())["crew"] == "ray"
