"""From the variables of a CTranslate2 Whisper to the weights of transformers: names, stacking, scales."""

from collections.abc import Iterator
from typing import Final, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperConfig

from export.sources.ctranslate2_file import MEND, ModelFile, Variable
from runtime.errors import CheckpointError

MAX_GROWTH: Final = 8  # float32 bytes a stored byte: int8 becomes four, and aliases repeat a few small ones
# Scalars that say how a decoder computes, and the value that Whisper has.
SWITCHES: Final = {"decoder/activation": 3, "decoder/pre_norm": 1}  # 3 is GELU
# Scalars without a meaning for the weights.
IGNORED: Final = ("decoder/alignment_heads", "decoder/alignment_layer")

Shape = tuple[int, ...]


class Weights:
    """The variables of a `model.bin` on their way to the names and shapes of transformers."""

    def __init__(self, file: ModelFile) -> None:
        self._path = file.path
        self._variables = file.variables
        self._used: set[str] = set()

    def config(self) -> WhisperConfig:
        """Return the dimensions that the shapes tell."""
        width, mels, _ = self._shape("encoder/conv1/weight", 3)
        vocabulary, _ = self._shape("decoder/embeddings/weight", 2)
        sides: dict[str, int] = {}
        for side in ("encoder", "decoder"):
            heads = self._scalar(f"{side}/num_heads")
            if heads < 1 or width % heads:
                self._fail(f"{side}/num_heads is {heads}; expected a divisor of the width {width}")
            sides |= {
                f"{side}_layers": self._layers(side),
                f"{side}_attention_heads": heads,
                f"{side}_ffn_dim": self._shape(f"{side}/layer_0/ffn/linear_0/weight", 2)[0],
            }
        return WhisperConfig(
            vocab_size=vocabulary,
            num_mel_bins=mels,
            d_model=width,
            max_source_positions=self._shape("encoder/position_encodings/encodings", 2)[0],
            max_target_positions=self._shape("decoder/position_encodings/encodings", 2)[0],
            **sides,
        )

    def state(self, config: WhisperConfig) -> dict[str, torch.Tensor]:
        """Return the weights by the names of transformers, once every name and shape has been verified."""
        wanted = list(_expected(config))
        for name, _, shape in wanted:
            if (found := self._shape(name, len(shape))) != shape:
                self._fail(f"{name} has shape {found}; the other weights ask for {shape}")
        self._verify_rest({f"{name}_scale" for name, _, _ in wanted if not self._variables[name].is_float})
        stored = {id(variable): variable.values.nbytes for variable in self._variables.values()}
        grown = sum(4 * self._variables[name].values.size for name, _, _ in wanted)
        if grown > MAX_GROWTH * sum(stored.values()):
            self._fail("aliases repeat most of the weights; expected each to be stored")
        state = {}
        for name, targets, _ in wanted:
            parts = np.split(self._values(name), len(targets)) if len(targets) > 1 else [self._values(name)]
            for target, part in zip(targets, parts, strict=True):
                if target:
                    state[target] = torch.from_numpy(np.ascontiguousarray(part))
                elif part.any():
                    self._fail(f"{name} has a bias of the keys other than zero, which Whisper does not have")
        return state

    def _verify_rest(self, scales: set[str]) -> None:
        """Compare what is no weight of its own with what Whisper has, and refuse what it does not know."""
        for name, value in SWITCHES.items():
            if name in self._variables and (found := self._scalar(name)) != value:
                self._fail(f"{name} is {found}; expected {value}")
        tied, embeddings = "decoder/projection/weight", "decoder/embeddings/weight"
        if self._shape(tied, 2) != self._shape(embeddings, 2) or (
            self._variables[tied] is not self._variables[embeddings]
            and not np.array_equal(self._values(tied), self._values(embeddings))
        ):
            self._fail(f"{tied} differs from {embeddings}; Whisper's output layer is its embedding")
        self._used |= {*SWITCHES, *IGNORED, *scales, f"{tied}_scale"}
        unknown = [
            name
            for name, variable in self._variables.items()
            if name not in self._used and (variable.values.ndim or variable.values.any())
        ]
        if unknown:
            self._fail(
                f"{len(unknown)} variables are unknown in Whisper, the first {unknown[0][:80]!r}",
                damaged=False,
            )

    def _layers(self, side: str) -> int:
        start = f"{side}/layer_"
        numbers = {name[len(start) :].split("/")[0] for name in self._variables if name.startswith(start)}
        count = len(numbers - {"norm"})  # `layer_norm` is the one after all layers
        if not count:
            self._fail(f"{start}0 is missing")
        return count

    def _values(self, name: str) -> NDArray[np.float32]:
        """Return one array in float32; quantised ones are divided by their scale, row by row."""
        variable = self._variable(name)
        values = variable.float32()
        if not variable.is_float:
            with np.errstate(over="ignore"):  # what overflows is refused below
                values /= self._scale(name, variable)
        if not np.isfinite(values).all():
            self._fail(f"{name} holds values that are not finite")
        return values

    def _scale(self, name: str, variable: Variable) -> NDArray[np.float32]:
        if variable.type not in ("int8", "int16"):
            self._fail(f"{name} has type {variable.type}; expected a float, int8 or int16")
        stored = self._variable(f"{name}_scale")
        rows = variable.values.shape[0]
        if not stored.is_float or stored.values.shape not in ((), (1,), (rows,)):
            self._fail(
                f"{name}_scale is {stored.type} of shape {stored.values.shape}; expected 1 or {rows} floats"
            )
        scale = stored.float32()
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            self._fail(f"{name}_scale holds values that are not positive numbers")
        return scale.reshape(-1, *[1] * (variable.values.ndim - 1))

    def _scalar(self, name: str) -> int:
        variable = self._variable(name)
        if variable.values.ndim or variable.is_float:
            self._fail(f"{name} is {variable.type} of shape {variable.values.shape}; expected a whole number")
        return int(variable.values)

    def _shape(self, name: str, rank: int) -> Shape:
        shape: Shape = self._variable(name).values.shape
        if len(shape) != rank:
            self._fail(f"{name} has shape {shape}; expected {rank} dimensions")
        return shape

    def _variable(self, name: str) -> Variable:
        self._used.add(name)
        if name not in self._variables:
            self._fail(f"{name} is missing among {len(self._variables)} variables")
        return self._variables[name]

    def _fail(self, fault: str, damaged: bool = True) -> NoReturn:
        raise CheckpointError(f"{self._path}: {fault}; {MEND if damaged else 'expected a plain Whisper'}")


def _expected(config: WhisperConfig) -> Iterator[tuple[str, tuple[str, ...], Shape]]:
    """List name, targets and shape of every weight; several targets share its rows, "" is dropped."""
    width, mels = config.d_model, config.num_mel_bins
    for number, inputs in ((1, mels), (2, width)):
        conv = f"conv{number}"
        yield f"encoder/{conv}/weight", (f"model.encoder.{conv}.weight",), (width, inputs, 3)
        yield f"encoder/{conv}/bias", (f"model.encoder.{conv}.bias",), (width,)
    embeddings = ("model.decoder.embed_tokens.weight",)
    yield "decoder/embeddings/weight", embeddings, (config.vocab_size, width)
    sides = (
        ("encoder", config.encoder_layers, config.encoder_ffn_dim, config.max_source_positions),
        ("decoder", config.decoder_layers, config.decoder_ffn_dim, config.max_target_positions),
    )
    for side, layers, inner, positions in sides:
        encodings = (f"model.{side}.embed_positions.weight",)
        yield f"{side}/position_encodings/encodings", encodings, (positions, width)
        yield from _norm(f"{side}/layer_norm", f"model.{side}.layer_norm", width)
        for i in range(layers):
            name, target = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            attention = f"{name}/self_attention"
            yield from _norm(f"{attention}/layer_norm", f"{target}.self_attn_layer_norm", width)
            yield from _linear(f"{attention}/linear_0", f"{target}.self_attn", "qkv", width)
            yield from _linear(f"{attention}/linear_1", f"{target}.self_attn", "o", width)
            if side == "decoder":
                attention = f"{name}/attention"
                yield from _norm(f"{attention}/layer_norm", f"{target}.encoder_attn_layer_norm", width)
                for j, letters in enumerate(("q", "kv", "o")):
                    yield from _linear(f"{attention}/linear_{j}", f"{target}.encoder_attn", letters, width)
            yield from _norm(f"{name}/ffn/layer_norm", f"{target}.final_layer_norm", width)
            for j, (rows, columns) in enumerate(((inner, width), (width, inner))):
                yield f"{name}/ffn/linear_{j}/weight", (f"{target}.fc{j + 1}.weight",), (rows, columns)
                yield f"{name}/ffn/linear_{j}/bias", (f"{target}.fc{j + 1}.bias",), (rows,)


def _norm(name: str, target: str, width: int) -> Iterator[tuple[str, tuple[str, ...], Shape]]:
    yield f"{name}/gamma", (f"{target}.weight",), (width,)
    yield f"{name}/beta", (f"{target}.bias",), (width,)


def _linear(name: str, target: str, letters: str, width: int) -> Iterator[tuple[str, tuple[str, ...], Shape]]:
    modules = [f"{target}.out_proj" if letter == "o" else f"{target}.{letter}_proj" for letter in letters]
    yield f"{name}/weight", tuple(f"{m}.weight" for m in modules), (len(letters) * width, width)
    biases = tuple("" if m.endswith("k_proj") else f"{m}.bias" for m in modules)  # Whisper's keys have none
    yield f"{name}/bias", biases, (len(letters) * width,)
