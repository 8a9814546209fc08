# SPDX-License-Identifier: Apache-2.0
"""Takes up training where a checkpoint left it, without the states that made it.

    python -m training.adopt --work DIR

Writes the checkpoint's codec as `<size>/codec_codec.pt` and its other modules as `<size>/dit_start.pt`, with which
`train_dit flow` then begins. Latents are cached anew: the checkpoint's encoder is rounded to float16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from engine_server.model.spectral_codec import SpectralCodec
from training.cache_latents import encoder_hash, latents_identity
from training.modules import DiffusionModules, build_diffusion_modules, encode_silence
from training.sizes import SIZES
from training.store import DEFAULT_WORK, EMBEDDED, save_atomically, state_path

START = "dit_start"
WEIGHTS = {
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "condition_encoder": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",
}
"""The checkpoint's folders, and what their files are called."""


def adopt(checkpoint: Path, work: Path, size: str) -> None:
    """Write the two states.

    Raises FileExistsError where either is already there, ValueError for a checkpoint of another size or with another
    tokenizer than training's; then nothing is written.
    """
    codec_path, start_path = state_path(work, size, "codec_codec"), state_path(work, size, START)
    for path in (codec_path, start_path):
        if path.exists():
            raise FileExistsError(f"{path} is there already: move it away first")
    codec = SpectralCodec(**SIZES[size].codec)
    _load(codec, checkpoint, "vae", size)
    modules = build_diffusion_modules(encode_silence(codec.eval()), SIZES[size])
    for part, module in modules.trained.items():
        _load(module, checkpoint, part, size)
    _check_tokenizer(checkpoint, modules)
    save_atomically({"ema": codec.state_dict(), "step": 0, "identity": f"adopted {encoder_hash(codec)}"}, codec_path)
    save_atomically({"ema": modules.trained.state_dict(), "step": 0, "identity": latents_identity(codec)}, start_path)
    print(f"adopted {checkpoint}")


def _load(module: nn.Module, checkpoint: Path, part: str, size: str) -> None:
    """A part's weights into a float32 module, all of them and no others."""
    weights = load_file(checkpoint / part / f"{WEIGHTS[part]}.safetensors")
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{part} of {checkpoint} is not that of the size {size}: {error}") from error


def _check_tokenizer(checkpoint: Path, modules: DiffusionModules) -> None:
    """Prompts must become the tokens that the weights know: the captions may have changed since they were trained."""
    theirs = Tokenizer.from_file(str(checkpoint / "tokenizer" / "tokenizer.json"))
    ours = modules.tokenizer.backend_tokenizer
    if ours.get_vocab() != theirs.get_vocab() or _merges(ours) != _merges(theirs):
        raise ValueError(
            f"{checkpoint} has another tokenizer than training.prompts builds: its weights know other tokens"
        )


def _merges(tokenizer: Tokenizer) -> list[Any]:
    merges: list[Any] = json.loads(tokenizer.to_str())["model"]["merges"]
    return merges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=EMBEDDED, help="a folder that training.export wrote")
    parser.add_argument("--size", choices=tuple(SIZES), default="embedded")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    arguments = parser.parse_args()
    adopt(arguments.checkpoint, arguments.work, arguments.size)


if __name__ == "__main__":
    main()
