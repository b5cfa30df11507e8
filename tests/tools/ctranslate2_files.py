"""Writing `model.bin` as CTranslate2 does, from a checkpoint of transformers, whole or with faults."""

import json
import shutil
import struct

import numpy as np

TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
SUPPRESSED = [0, 1, 7]


def string(text):
    return struct.pack("<H", len(text.encode()) + 1) + text.encode() + b"\0"


def variable(name, array, kind=None):
    array = np.asarray(array)
    kind = kind or array.dtype.name
    head = string(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    return head + struct.pack("<BI", TYPES.index(kind), array.nbytes) + array.tobytes()


def model_bytes(variables, aliases, spec="WhisperSpec", version=6, revision=3):
    """Variables: name -> array, or (array, type) where numpy lacks the type."""
    parts = [struct.pack("<I", version), string(spec), struct.pack("<II", revision, len(variables))]
    parts += [variable(n, *(v if isinstance(v, tuple) else (v,))) for n, v in variables.items()]
    parts.append(struct.pack("<I", len(aliases)))
    parts += [string(alias) + string(name) for alias, name in aliases.items()]
    return b"".join(parts)


def whisper_variables(model):
    """The variables of a Whisper of transformers, in float32, by hand and not by the reader's own table."""
    state = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    config = model.config
    found = {
        "encoder/num_heads": np.int16(config.encoder_attention_heads),
        "decoder/num_heads": np.int16(config.decoder_attention_heads),
        "decoder/activation": np.int8(3),
        "decoder/pre_norm": np.int8(1),
        "decoder/alibi": np.int8(0),
        "decoder/alignment_layer": np.int16(-1),
        "decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"],
    }
    for conv in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            found[f"encoder/{conv}/{part}"] = state[f"model.encoder.{conv}.{part}"]

    def norm(name, source):
        found[f"{name}/gamma"], found[f"{name}/beta"] = state[f"{source}.weight"], state[f"{source}.bias"]

    def linear(name, *sources):
        found[f"{name}/weight"] = np.concatenate([state[f"{s}.weight"] for s in sources])
        width = found[f"{name}/weight"].shape[0] // len(sources)
        biases = [state.get(f"{s}.bias", np.zeros(width, np.float32)) for s in sources]
        found[f"{name}/bias"] = np.concatenate(biases)

    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        base = f"model.{side}"
        found[f"{side}/position_encodings/encodings"] = state[f"{base}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"{base}.layer_norm")
        for i in range(layers):
            name, source = f"{side}/layer_{i}", f"{base}.layers.{i}"
            own, other = f"{source}.self_attn", f"{source}.encoder_attn"
            norm(f"{name}/self_attention/layer_norm", f"{own}_layer_norm")
            linear(f"{name}/self_attention/linear_0", f"{own}.q_proj", f"{own}.k_proj", f"{own}.v_proj")
            linear(f"{name}/self_attention/linear_1", f"{own}.out_proj")
            if side == "decoder":
                norm(f"{name}/attention/layer_norm", f"{other}_layer_norm")
                linear(f"{name}/attention/linear_0", f"{other}.q_proj")
                linear(f"{name}/attention/linear_1", f"{other}.k_proj", f"{other}.v_proj")
                linear(f"{name}/attention/linear_2", f"{other}.out_proj")
            norm(f"{name}/ffn/layer_norm", f"{source}.final_layer_norm")
            linear(f"{name}/ffn/linear_0", f"{source}.fc1")
            linear(f"{name}/ffn/linear_1", f"{source}.fc2")
    return found


ALIASES = {"decoder/projection/weight": "decoder/embeddings/weight"}


def write_folder(folder, checkpoint, data, tokenizer=True, settings=None):
    """A folder as ct2-transformers-converter leaves it, with the tokenizer of `checkpoint`."""
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(data)
    content = {
        "suppress_ids": SUPPRESSED,
        "suppress_ids_begin": [220],
        "lang_ids": [],
        "alignment_heads": [[1, 0]],
    }
    (folder / "config.json").write_text(json.dumps(content if settings is None else settings))
    (folder / "vocabulary.json").write_text("[]")
    if tokenizer:
        shutil.copy(checkpoint / "tokenizer.json", folder)
    return folder
