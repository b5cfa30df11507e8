import json
import subprocess
import sys

import numpy as np
import pytest

from bench.latency.side_by_side import Rounds, SystemResult, agreement, ratio_table
from bench.measure.graph_bytes import cache_bytes, cross_bytes, weight_bytes
from bench.measure.timing import Stopwatch
from bench.peers.base import NBest, PeerError, Workload, rows, thread_environment
from bench.peers.clip_text import padded
from bench.peers.driver import Worker, converted
from bench.peers.memory_read import MemoryRead
from bench.peers.models import make_workload, read_geometry
from bench.peers.registry import SPEECH_PRECISIONS, expand, speech_peer, text_peer
from runtime.errors import CheckpointError, SettingsError
from runtime.files.write_whole import write_whole_folder

WORK = Workload(prompt=(5, 6), end_of_text=3, steps=2, beams=2, threads=1)


def test_workload_survives_the_pipe():
    assert Workload.from_dict(json.loads(json.dumps(WORK.to_dict()))) == WORK


@pytest.mark.parametrize("field", ["steps", "beams", "threads"])
def test_workload_without_work_is_refused(field):
    with pytest.raises(SettingsError, match=field):
        Workload(**(WORK.to_dict() | {"prompt": (5,), field: 0}))


def test_verify_accepts_the_asked_work():
    n_best = NBest([[[1, 2], [1, 4]]], [[-0.1, -0.2]])
    n_best.verify(WORK, utterances=1)
    assert n_best.distinct == [2]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "0 utterances"),
        ([[[1, 2]]], "1 hypotheses"),
        ([[[1, 2], [1]]], r"\[1, 2\] tokens"),
    ],
)
def test_verify_refuses_other_work(sequences, message):
    with pytest.raises(PeerError, match=message):
        NBest(sequences, []).verify(WORK, utterances=1)


def test_rows():
    assert rows([1, 2, 3, 4], 2) == [[1, 2], [3, 4]]


def test_expansion_of_names():
    names = expand(["earsight", "optimum"], ["int8", "fp32"], SPEECH_PRECISIONS)
    assert names == ["earsight-int8", "earsight-fp32", "optimum-fp32"]
    # A peer without int8 is still a peer of an int8 run.
    assert expand(["optimum"], ["int8"], SPEECH_PRECISIONS) == ["optimum-fp32"]
    assert expand(["earsight", "optimum", "earsight"], ["fp32"], SPEECH_PRECISIONS) == [
        "earsight-fp32",
        "optimum-fp32",
    ]


@pytest.mark.parametrize(("names", "precisions"), [(["whisper.cpp"], ["fp32"]), (["optimum"], ["int3"])])
def test_unknown_names_are_refused(names, precisions):
    with pytest.raises(SettingsError, match="unknown"):
        expand(names, precisions, SPEECH_PRECISIONS)


def test_every_registered_system_can_be_built():
    for name, precisions in SPEECH_PRECISIONS.items():
        for precision in precisions:
            assert speech_peer(f"{name}-{precision}").precision == precision
    with pytest.raises(SettingsError, match="unknown"):
        speech_peer("optimum-int8")
    with pytest.raises(SettingsError, match="unknown"):
        text_peer("ctranslate2-fp32")


def test_text_padding():
    ids, mask = padded([[7, 8, 9], [7, 9]], None, 0)
    assert ids.tolist() == [[7, 8, 9], [7, 9, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert padded([[7, 9]], 4, 0)[0].shape == (1, 4)


def test_thread_environment_limits_every_pool():
    assert set(thread_environment(3).values()) == {"3"}


# -- order of turns -----------------------------------------------------------------------------------------


def test_every_system_has_one_turn_a_round_and_the_start_moves_on():
    rounds = list(Rounds(measured=3, warm_up=1).order(["a", "b", "c"]))
    assert [counts for counts, _ in rounds] == [False, True, True, True]
    assert [turns for _, turns in rounds] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_notebook_runs_in_its_own_few_rounds_only():
    rounds = list(Rounds(measured=3, warm_up=2, slow=1).order(["a", "notebook-fp32"]))
    assert ["notebook-fp32" in turns for _, turns in rounds] == [False, False, True, False, False]


@pytest.mark.parametrize("fields", [{"measured": 0}, {"warm_up": -1}, {"slow": 0}, {"pause": -1.0}])
def test_rounds_that_measure_nothing_are_refused(fields):
    with pytest.raises(SettingsError):
        Rounds(**fields)


def result(name, encoder, decoding, sequences):
    found = SystemResult(name)
    for first, second in zip(encoder, decoding, strict=True):
        stages = {"encoder": [first], "decoding": [second]}
        found.take({"stages": stages, "peak_memory_bytes": 10, "sequences": sequences}, counts=True)
    return found


def test_whole_is_the_sum_of_its_parts_and_ratios_are_of_medians():
    results = {
        "earsight-int8": result("earsight-int8", [1, 1, 1], [1, 1, 2], [[[1, 2]]]),
        "other-fp32": result("other-fp32", [4, 4, 4], [2, 2, 5], [[[1, 3]]]),
    }
    assert results["earsight-int8"].stages["whole"] == [2, 2, 3]
    table = {entry["stage"]: entry for entry in ratio_table(results, ["earsight-int8"])}
    assert table["whole"]["value"] == 3
    assert table["encoder"]["value"] == 4
    assert table["decoding"]["per_round"] == [2, 2, 2.5]
    assert agreement(results, "earsight-int8") == {"earsight-int8": 1, "other-fp32": 0}


def test_warm_up_turns_do_not_count():
    found = SystemResult("a")
    found.take({"stages": {"whole": [9.0]}, "peak_memory_bytes": 5}, counts=False)
    found.take({"stages": {"whole": [1.0]}, "peak_memory_bytes": 3}, counts=True)
    assert found.stages == {"whole": [1.0]}
    assert found.warm_up == {"whole": [9.0]}
    assert found.peak_memory == 5


# -- bytes and bandwidth ------------------------------------------------------------------------------------


def test_memory_read_reads_all_of_it():
    memory = MemoryRead(1_001, threads=3)
    watch = Stopwatch()
    assert memory.size == 1_008
    assert memory.read(watch) == 1
    memory._parts[2][-1] = 77  # the last word of the last reader
    assert memory.read(watch) == 77
    assert len(watch.raw("read")) == 2


def test_memory_read_of_nothing_is_refused():
    with pytest.raises(SettingsError):
        MemoryRead(0, 1)


def test_bytes_of_a_step():
    geometry = {"layers": 12, "width": 768, "positions": 1_500}
    # whisper-small in float32: 2 · 12 · 768 · 1500 · 4 bytes = 110.6 MB, as one copy for all beams
    assert cross_bytes(geometry, 1) == 110_592_000
    assert cache_bytes(geometry, 2, prompt=4, beams=5, steps=32) == 2 * 2 * 12 * 768 * 84 * 4


def test_weights_of_a_graph_without_its_lookup_tables(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    table = helper.make_tensor("table", kind.FLOAT, [10, 4], np.zeros(40, np.float32))
    shared = helper.make_tensor("shared", kind.FLOAT, [4, 4], np.zeros(16, np.float32))
    small = helper.make_tensor("small", kind.INT8, [4, 3], np.zeros(12, np.int8).tobytes(), raw=True)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "shared"], ["y"]),
        helper.make_node("Gather", ["shared", "ids"], ["z"]),
        helper.make_node("Identity", ["small"], ["w"]),
    ]
    value = helper.make_tensor_value_info
    outputs = [value("y", kind.FLOAT, None), value("z", kind.FLOAT, None), value("w", kind.INT8, None)]
    graph = helper.make_graph(nodes, "g", [value("ids", kind.INT64, [2])], outputs, [table, shared, small])
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    assert weight_bytes(tmp_path / "g.onnx") == 16 * 4 + 12  # `table` is only looked up, `shared` is not


# -- checkpoints --------------------------------------------------------------------------------------------


def write_checkpoint(folder, **generation):
    config = {"num_mel_bins": 80, "max_source_positions": 1500, "decoder_layers": 4, "d_model": 384}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))


MULTILINGUAL = {
    "decoder_start_token_id": 50258,
    "eos_token_id": 50257,
    "no_timestamps_token_id": 50363,
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": 50259},
    "task_to_id": {"transcribe": 50359},
}


def test_prompt_comes_from_the_checkpoint(tmp_path):
    write_checkpoint(tmp_path, **MULTILINGUAL)
    assert make_workload(tmp_path, 32, 5, 2).prompt == (50258, 50259, 50359, 50363)
    write_checkpoint(tmp_path, **(MULTILINGUAL | {"is_multilingual": False}))
    assert make_workload(tmp_path, 32, 5, 2).prompt == (50258, 50363)
    assert read_geometry(tmp_path)["frames"] == 3000


def test_incomplete_checkpoint_is_refused(tmp_path):
    write_checkpoint(tmp_path, decoder_start_token_id=1, is_multilingual=True)
    with pytest.raises(CheckpointError, match="lang_to_id"):
        make_workload(tmp_path, 32, 5, 2)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_geometry(tmp_path / "nothing")


# -- processes ----------------------------------------------------------------------------------------------


def test_worker_reads_memory_in_its_own_process(tmp_path):
    with Worker("memory", "read", 1, tmp_path / "log") as worker:
        assert worker.ask("load", bytes=4_096, threads=1)["bytes"] == 4_096
        answer = worker.ask("run", repeats=3)
        assert len(answer["stages"]["read"]) == 3
        assert answer["peak_memory_bytes"] > 0


def test_fault_of_a_system_is_reported_and_the_process_goes_on(tmp_path):
    with Worker("memory", "read", 1, tmp_path / "log") as worker:
        with pytest.raises(PeerError, match=r"read failed during load: SettingsError"):
            worker.ask("load", bytes=0, threads=1)
        assert worker.ask("load", bytes=8, threads=1)["bytes"] == 8


def test_process_that_ends_is_reported_with_its_last_words(tmp_path):
    with (
        Worker("speech", "no-such", 1, tmp_path / "log") as worker,
        pytest.raises(PeerError, match="unknown"),
    ):
        worker.ask("load")


def test_answer_that_takes_too_long_ends_the_process(tmp_path):
    with Worker("memory", "read", 1, tmp_path / "log") as worker:
        worker.ask("load", bytes=1 << 20, threads=1)
        with pytest.raises(PeerError, match="ended with status"):
            worker.ask("run", timeout=0.2, repeats=1_000_000)


def test_worker_leaves_no_process(tmp_path):
    with Worker("memory", "read", 1, tmp_path / "log") as worker:
        worker.ask("load", bytes=8, threads=1)
        process = worker._process
    assert process.returncode == 0


def interrupted_build(target):
    with write_whole_folder(target) as beside:
        (beside / "half").write_text("x")
        raise KeyboardInterrupt


def test_interrupted_conversion_leaves_no_folder(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        interrupted_build(target)
    assert list(tmp_path.iterdir()) == []
    with write_whole_folder(target) as beside:
        (beside / "whole").write_text("x")
    assert (target / "whole").is_file()


def test_conversion_runs_once(tmp_path):
    source = tmp_path / "checkpoint"
    source.mkdir()
    folder = converted("speech", "transformers-fp32", source, tmp_path / "models")
    assert (folder / "checkpoint").resolve() == source
    before = folder.stat().st_mtime_ns
    assert converted("speech", "transformers-fp32", source, tmp_path / "models") == folder
    assert folder.stat().st_mtime_ns == before


def test_drivers_import_no_engine_of_peers():
    code = (
        "import sys, bench.latency.side_by_side, bench.peers.models;"
        "print([m for m in ('torch', 'transformers', 'ctranslate2', 'optimum', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_process_of_a_peer_does_not_carry_our_engine():
    code = (
        "import sys; from bench.peers.__main__ import bare_package; bare_package('runtime');"
        "import bench.peers.worker;"
        "print([m for m in ('onnxruntime', 'tokenizers', 'torch', 'soundfile') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
