"""Self-attention of one decoder step, three ways: which of them should hold the beams' histories?

    python -m tests.tools.gpu_attention --bundle models/whisper-small --half --output reports/gpu

- growing: the project's graph. One cache for all beams of an utterance, a mask tells which entries a beam
  descends from, and every step returns a longer cache.
- fixed: the same in a buffer that a step writes into (`export.graphs.fixed_decoder`).
- indirect: `com.microsoft.DecoderMaskedMultiHeadAttention`. One cache a beam, and `cache_indirection` tells
  for every position in whose cache to look.

Each is a chain of layers that hold nothing but this attention, over the same history, so that their outputs
agree and their times can be compared. Shapes and prompt are those of the bundle's Whisper, the numbers
random. Prints a table and writes `gpu_attention.json` with the raw seconds.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench.measure.system_info import system_info
from bench.measure.timing import Stopwatch, summarize
from bench.peers.models import make_workload
from runtime.bundle.json_files import read_json_object
from runtime.commands.console import run_guarded
from runtime.files.write_whole import write_json
from runtime.sessions.factory import (
    Provider,
    SessionSettings,
    provider_list,
    select_provider,
    session_options,
)
from runtime.whisper.lineage import HIDDEN

FORMS: Final = ("growing", "fixed", "indirect")
TOKENS: Final = (16, 64, 256)  # generated before the step
LAYERS: Final = 4  # enough to see a layer's time; all layers of the largest would fill the memory
FILE_NAME: Final = "gpu_attention.json"
MICROSECONDS: Final = 1e6
_MICROSOFT: Final = "com.microsoft"
_OPSET: Final = 18
_IR_VERSION: Final = 9
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """One step.

    Attributes:
        batch: Utterances N.
        beams: Beams K.
        prompt: Tokens of the prompt P.
        tokens: Tokens T that every beam has generated before this step.
        layers: Decoder layers.
        heads: Attention heads H.
        head_dim: Size d of a head.
        half: float16, else float32.
        seed: Of the history.
    """

    batch: int
    beams: int
    prompt: int
    tokens: int
    layers: int
    heads: int
    head_dim: int
    half: bool
    seed: int = 0

    @property
    def entries(self) -> int:
        """Entries of the shared cache before this step."""
        return self.prompt + self.tokens * self.beams

    def cache_bytes(self, form: str) -> int:
        """Return the bytes of keys and values that the step has to read, in all layers."""
        held = self.beams * (self.prompt + self.tokens) if form == "indirect" else self.entries
        width = self.heads * self.head_dim * (2 if self.half else 4)
        return 2 * self.layers * self.batch * held * width


def works_of(bundle: Path, beams: int, batches: Sequence[int], half: bool) -> list[AttentionWork]:
    """Return the steps to measure, in the shapes of the bundle's Whisper."""
    config = read_json_object(bundle / "whisper" / "config.json")
    heads = int(config["decoder_attention_heads"])
    prompt = make_workload(bundle / "whisper", steps=1, beams=beams, threads=1).prompt
    return [
        AttentionWork(
            batch=batch,
            beams=beams,
            prompt=len(prompt),
            tokens=tokens,
            layers=min(int(config["decoder_layers"]), LAYERS),
            heads=heads,
            head_dim=int(config["d_model"]) // heads,
            half=half,
        )
        for batch in batches
        for tokens in TOKENS
    ]


def measure_attention(
    work: AttentionWork, provider: Provider, settings: SessionSettings, rounds: int
) -> dict[str, Any]:
    """Time the three forms.

    Returns:
        The work, and for each form raw `seconds`, their `median_s` and `cache_bytes`; `left_out` with the
        reason for a form that the provider does not run.
    """
    history = make_history(work)
    forms: dict[str, Any] = {}
    for form in FORMS:
        try:
            run = bound_run(form, work, history, provider, settings)
            run()
        except Exception as error:  # noqa: BLE001 - onnxruntime's classes share no other base
            forms[form] = {"left_out": " ".join(str(error).split())}
            continue
        warm_up = max(2, rounds // 5)
        watch = Stopwatch(discard=warm_up)
        for _ in range(warm_up + rounds):
            with watch.lap("step"):
                run()
        seconds = watch.raw("step")
        forms[form] = {
            "seconds": seconds,
            "median_s": summarize(seconds).median,
            "cache_bytes": work.cache_bytes(form),
        }
    return {"work": asdict(work), "forms": forms}


def bound_run(
    form: str, work: AttentionWork, history: "History", provider: Provider, settings: SessionSettings
) -> Callable[[], NDArray[Any]]:
    """Return a call that computes one step with all tensors on the provider's device.

    Returns:
        A function that runs the step and gives its output (N, K, H * d); the last K entries of the caches of
        "growing" and "fixed", and the last position of "indirect", are this step's.
    """
    inputs = step_inputs(form, work, history)
    providers = provider_list(provider, replace(settings, cuda_graph=False), {})
    model, options = attention_model(form, work), session_options(settings)
    session = ort.InferenceSession(model, options, providers=providers)
    device = (provider.device, provider.gpu.index if provider.gpu else 0)
    binding = session.io_binding()
    on_host = {"past_length", "beam_width"}
    values = {
        name: ort.OrtValue.ortvalue_from_numpy(array, *(("cpu", 0) if name in on_host else device))
        for name, array in inputs.items()
    }
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        past = output.name.replace("present_", "past_")
        if form != "growing" and past in values:
            binding.bind_ortvalue_output(output.name, values[past])
        else:
            binding.bind_output(output.name, *device)

    def run() -> NDArray[Any]:
        assert values  # the binding does not keep its inputs alive; this function does
        session.run_with_iobinding(binding)
        states: NDArray[Any] = binding.get_outputs()[0].numpy()
        if form != "indirect":
            states = states.transpose(0, 2, 1, 3)
        return states.reshape(work.batch, work.beams, -1)

    return run


@dataclass(frozen=True, slots=True)
class History:
    """What the beams have seen and said.

    Attributes:
        prompt: Keys and values of the prompt, (2, N, H, P, d).
        steps: Keys and values of every step, (2, T, N, H, K, d).
        ancestors: (N, K, T): which beam of each step a present beam descends from.
        now: Query, key and value of this step, (3, N, H, K, d).
    """

    prompt: NDArray[Any]
    steps: NDArray[Any]
    ancestors: NDArray[np.int64]
    now: NDArray[Any]


def make_history(work: AttentionWork) -> History:
    """Draw a reproducible history in which beams die and split at every step."""
    rng = np.random.default_rng(work.seed)
    kind = np.float16 if work.half else np.float32
    sizes = (work.batch, work.heads)

    def draw(*shape: int) -> NDArray[Any]:
        drawn: NDArray[Any] = rng.standard_normal(shape) / work.head_dim**0.25
        return drawn.astype(kind)

    ancestors = np.zeros((work.batch, work.beams, 0), np.int64)
    own = np.broadcast_to(np.arange(work.beams)[None, :, None], (work.batch, work.beams, 1))
    for _ in range(work.tokens):
        parents = rng.integers(0, work.beams, (work.batch, work.beams))
        inherited = ancestors[np.arange(work.batch)[:, None], parents]
        ancestors = np.concatenate([inherited, own], axis=2)
    return History(
        draw(2, *sizes, work.prompt, work.head_dim),
        draw(2, work.tokens, *sizes, work.beams, work.head_dim),
        ancestors,
        draw(3, *sizes, work.beams, work.head_dim),
    )


def step_inputs(form: str, work: AttentionWork, history: History) -> Arrays:
    """Lay a history out as one form wants it."""
    if form == "indirect":
        return _indirect_inputs(work, history)
    n, k, t, p = work.batch, work.beams, work.tokens, work.prompt
    # (T, N, H, K, d) -> (N, H, T * K, d): the entries of a step lie side by side
    grown = np.moveaxis(history.steps, 1, 3).reshape(2, n, work.heads, t * k, work.head_dim)
    past = np.concatenate([history.prompt, grown], axis=3)
    mask = np.full((n, 1, k, work.entries + k), HIDDEN, history.now.dtype)
    mask[..., :p] = 0
    seen = history.ancestors[..., None] == np.arange(k)  # (N, K, T, K)
    mask[:, 0, :, p : work.entries][seen.reshape(n, k, t * k)] = 0
    mask[:, 0, :, work.entries :][:, np.eye(k, dtype=bool)] = 0
    inputs = {"query": history.now[0], "key": history.now[1], "value": history.now[2], "mask": mask}
    if form == "fixed":  # a buffer that ends with this step's entries; a longer one has more hidden ones
        past = np.concatenate([past, np.zeros_like(history.now[1:])], axis=3)
        rows = np.arange(work.entries, work.entries + k)[:, None]
        inputs["index"] = np.ascontiguousarray(np.broadcast_to(rows, history.now[1].shape))
    return inputs | _by_layer(work, past)


def _indirect_inputs(work: AttentionWork, history: History) -> Arrays:
    n, k, p, t = work.batch, work.beams, work.prompt, work.tokens
    rows = (2, n * k, work.heads)
    past = np.zeros((*rows, p + t + 1, work.head_dim), history.now.dtype)
    past[:, :, :, :p] = np.repeat(history.prompt, k, axis=1)
    # (T, N, H, K, d) -> (N, K, H, T, d) -> (N * K, H, T, d)
    past[:, :, :, p : p + t] = history.steps.transpose(0, 2, 4, 3, 1, 5).reshape(*rows, t, work.head_dim)
    indirection = np.zeros((n, k, p + t + 1), np.int32)
    indirection[:, :, p : p + t] = history.ancestors
    indirection[:, :, p + t] = np.arange(k)
    # (N, H, K, d) -> (N * K, 1, H * d)
    states = history.now.transpose(0, 1, 3, 2, 4).reshape(3, n * k, 1, -1)
    inputs: Arrays = dict(zip(("query", "key", "value"), map(np.ascontiguousarray, states), strict=True))
    inputs |= {
        "past_length": np.array([p + t], np.int32),
        "beam_width": np.array([k], np.int32),
        "cache_indirection": indirection,
    }
    return inputs | _by_layer(work, past)


def _by_layer(work: AttentionWork, past: NDArray[Any]) -> Arrays:
    """Give every layer a cache of its own, as a decoder's are."""
    return {
        f"past_{kind}_{i}": past[place].copy()
        for i in range(work.layers)
        for place, kind in enumerate(("key", "value"))
    }


def attention_model(form: str, work: AttentionWork) -> bytes:
    """Return the chain of layers as a serialised ONNX model."""
    from onnx import TensorProto, helper

    inputs = step_inputs(form, work, make_history(work))
    kinds: Mapping[Any, int] = {
        np.dtype(np.float32): TensorProto.FLOAT,
        np.dtype(np.float16): TensorProto.FLOAT16,
        np.dtype(np.int32): TensorProto.INT32,
        np.dtype(np.int64): TensorProto.INT64,
    }
    real = kinds[inputs["query"].dtype]
    nodes: list[Any] = []
    states = "query"
    for i in range(work.layers):
        layer = _indirect_layer if form == "indirect" else _masked_layer
        states = layer(form, work, i, states, nodes)
    outputs = [states, *(f"present_{kind}_{i}" for i in range(work.layers) for kind in ("key", "value"))]
    graph = helper.make_graph(
        nodes,
        form,
        [helper.make_tensor_value_info(name, kinds[a.dtype], a.shape) for name, a in inputs.items()],
        [helper.make_tensor_value_info(name, real, None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    serialised: bytes = model.SerializeToString()
    return serialised


def _masked_layer(form: str, work: AttentionWork, i: int, states: str, nodes: list[Any]) -> str:
    """Append what `export.modules.whisper.DecoderLayer` does between its projections."""
    from onnx import helper

    node = helper.make_node
    for kind in ("key", "value"):
        past, present = f"past_{kind}_{i}", f"present_{kind}_{i}"
        if form == "fixed":
            nodes.append(node("ScatterElements", [past, "index", kind], [present], axis=2))
        else:
            nodes.append(node("Concat", [past, kind], [present], axis=2))
    nodes += [
        node("Transpose", [f"present_key_{i}"], [f"turned_{i}"], perm=[0, 1, 3, 2]),
        node("MatMul", [states, f"turned_{i}"], [f"products_{i}"]),
        node("Add", [f"products_{i}", "mask"], [f"scores_{i}"]),
        node("Softmax", [f"scores_{i}"], [f"weights_{i}"], axis=-1),
        node("MatMul", [f"weights_{i}", f"present_value_{i}"], [f"states_{i}"]),
    ]
    return f"states_{i}"


def _indirect_layer(form: str, work: AttentionWork, i: int, states: str, nodes: list[Any]) -> str:
    from onnx import helper

    inputs = [states, "key", "value", "", "", f"past_key_{i}", f"past_value_{i}"]
    nodes.append(
        helper.make_node(
            "DecoderMaskedMultiHeadAttention",
            [*inputs, "past_length", "beam_width", "cache_indirection"],
            [f"states_{i}", f"present_key_{i}", f"present_value_{i}"],
            domain=_MICROSOFT,
            num_heads=work.heads,
            past_present_share_buffer=1,
            scale=1.0,  # as the project's graphs have it folded into the query
        )
    )
    return f"states_{i}"


def table(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table of `measure_attention`'s results."""
    titles = "".join(f"{form:>12}" for form in FORMS)
    yield f"{'self-attention, microseconds a layer':<38}{titles}  (indirect: DecoderMaskedMultiHeadAttention)"
    left_out: dict[str, str] = {}
    for entry in entries:
        work, cells = entry["work"], ""
        for form, state in entry["forms"].items():
            if "left_out" in state:
                left_out[form] = state["left_out"]
                cells += f"{'-':>12}"
            else:
                cells += f"{state['median_s'] / work['layers'] * MICROSECONDS:>12.1f}"
        name = f"batch {work['batch']}, after {work['tokens']} tokens"
        yield f"  {name:<36}{cells}"
    for form, reason in left_out.items():
        yield f"  {form}: not measured ({reason})"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.gpu_attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, required=True, help="whose shapes are taken")
    parser.add_argument("--output", type=Path, required=True, help=f"folder for {FILE_NAME}")
    parser.add_argument(
        "--provider", choices=("cuda", "cpu"), default="cuda"
    )  # TensorRT has no such operator
    parser.add_argument("--device", type=int, default=0, help="number of the GPU")
    parser.add_argument("--half", action="store_true", help="float16")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    provider, settings = select_provider(args.provider, device_id=args.device), SessionSettings()
    works = works_of(args.bundle, args.beams, args.batches, args.half)
    entries = [measure_attention(work, provider, settings, args.rounds) for work in works]
    print("\n".join(table(entries)))
    report = {"system": system_info(), **provider.to_dict(), "rounds": args.rounds, "attention": entries}
    write_json(args.output / FILE_NAME, report)
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded("python -m tests.tools.gpu_attention", lambda: run(parse_args())))
