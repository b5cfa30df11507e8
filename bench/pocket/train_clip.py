"""Train the pocket CLIP: `python -m bench.pocket.train_clip --output bench/pocket/models/clip --work DIR`.

A `CLIPModel` with four vision and three text layers of width 128. Besides the contrastive loss, each patch
of the picture is asked for the object on it (a head that is dropped in the end): that teaches the vision
tower what there is to see within minutes. Goes on from `--work` when started again.
"""

import argparse
import copy
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from bench.pocket.clip_batches import IMAGE_SIZE, MEAN, NOTHING, PATCH, STD, Batch, make_batch
from bench.pocket.clip_tokenizer import MAX_TOKENS, make_clip_tokenizer
from bench.pocket.training import Session, add_arguments, make_tokenizer, run_trainer
from bench.pocket.vocabulary import OBJECT_COLOURS
from runtime.files.write_whole import write_whole_folder

WIDTH: Final = 128
WRONG: Final = 6  # wrong captions for each picture
MERGES: Final = 240
START_SCALE, END_SCALE = 20.0, 100.0  # of the cosine; 100 is what the fusion uses
LATE_PATCH_WEIGHT: Final = 0.3


def make_model(tokenizer: Any) -> Any:
    """An untrained `CLIPModel`."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4,
             "projection_dim": WIDTH}  # fmt: skip
    text = tower | {
        "num_hidden_layers": 3, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = tower | {"num_hidden_layers": 4, "image_size": IMAGE_SIZE, "patch_size": PATCH}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH,
                        logit_scale_init_value=math.log(END_SCALE))  # fmt: skip
    model = CLIPModel(config)
    model.set_attn_implementation("eager")  # on a CPU the backward pass of the fused attention is slow
    return model


def losses(model: Any, head: nn.Module, batch: Batch, scale: float) -> dict[str, Tensor]:
    """The parts of the loss and the share of pictures whose right caption wins.

    Args:
        model: a `CLIPModel`.
        head: width → nouns + 1 + colours + 1, applied to every patch.
        batch: B pictures with W wrong captions each.
        scale: factor of the cosine.
    """
    seen = model.vision_model(pixel_values=batch.pixels)
    read = model.text_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    image = nn.functional.normalize(model.visual_projection(seen.pooler_output).float(), dim=-1)
    text = nn.functional.normalize(model.text_projection(read.pooler_output).float(), dim=-1)
    count = len(image)
    every = scale * image @ text.T  # (B, B * (1 + W))
    right = torch.arange(count)
    own = every[:, count:].reshape(count, count, -1)[right, right]  # (B, W)
    listed = torch.cat(
        [every[right, right][:, None], own], dim=1
    )  # (B, 1 + W): what a rescored n-best looks like
    patches = head(seen.last_hidden_state[:, 1:]).float().flatten(0, 1)
    colours = patches[:, NOTHING + 1 :]
    occupied = batch.nouns.flatten() != NOTHING
    cross_entropy = nn.functional.cross_entropy
    return {
        "retrieval": cross_entropy(every, right),
        "reverse": cross_entropy(every[:, :count].T, right),
        "list": cross_entropy(listed, torch.zeros_like(right)),
        "patch": cross_entropy(patches[:, : NOTHING + 1], batch.nouns.flatten())
        + cross_entropy(colours[occupied], batch.colours.flatten()[occupied]),
        "right": (listed.argmax(1) == 0).float().mean().detach(),
    }


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the checkpoint as Hugging Face does, weights in half precision."""
    from transformers import CLIPImageProcessor, CLIPProcessor

    square = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=square, image_mean=list(MEAN),
                                image_std=list(STD))  # fmt: skip

    with write_whole_folder(folder) as beside:
        copy.deepcopy(model).half().save_pretrained(beside)
        CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(beside)


def train(args: argparse.Namespace) -> None:
    """Train to `args.steps` and write the checkpoint, also at every save."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer(make_clip_tokenizer, MERGES)

    def draw(step: int) -> Batch:
        rng = np.random.default_rng([args.seed, 200, step])
        return make_batch(rng, tokenizer, args.batch, WRONG)

    fit(args, make_model(tokenizer), tokenizer, draw, _phase, warm_up=200)


def _phase(progress: float) -> tuple[float, float]:
    """Sharpen the cosine and look at the patches during the first half."""
    scale = START_SCALE + (END_SCALE - START_SCALE) * min(1.0, progress / 0.5)
    return scale, 1.0 if progress < 0.5 else LATE_PATCH_WEIGHT


def fit(
    args: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    draw: Callable[[int], Batch],
    phase: Callable[[float], tuple[float, float]],
    warm_up: int,
) -> None:
    """Train a `CLIPModel` to `args.steps`, going on from `args.work`, and write it at every save.

    Args:
        args: Options of `add_arguments`.
        model: Where to begin.
        tokenizer: Written beside the weights.
        draw: The batch of a step.
        phase: Factor of the cosine, and weight of the patches' loss, at a share of all steps.
        warm_up: Steps.
    """
    head = nn.Linear(WIDTH, NOTHING + 1 + len(OBJECT_COLOURS) + 1)
    model.logit_scale.requires_grad_(False)
    session = Session("clip", args, model, head, warm_up, lambda: save_model(model, tokenizer, args.output))
    while not session.is_done():
        scale, patch_weight = phase(session.progress)
        batch = draw(session.step)
        with torch.autocast("cpu", torch.bfloat16):
            parts = losses(model, head, batch, scale)
        loss = parts["retrieval"] + 0.5 * parts["reverse"] + parts["list"] + patch_weight * parts["patch"]
        session.learn(loss, parts)
    session.finish()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pocket.train_clip", description=__doc__)
    add_arguments(parser, steps=4000, batch=48, rate=1e-3)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_trainer("python -m bench.pocket.train_clip", train, parse_args()))
