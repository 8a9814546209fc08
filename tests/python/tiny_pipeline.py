# SPDX-License-Identifier: Apache-2.0
"""diffusers' whole pipeline with random weights, small enough to run in a moment, and recordings of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers import AceStepPipeline, AutoencoderOobleck, FlowMatchEulerDiscreteScheduler
from diffusers.models import AceStepTransformer1DModel
from diffusers.pipelines.ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from engine_server.model.conditioning import Condition
from engine_server.model.prompts import NO_METAS, Metas

WIDTH, CHANNELS, RATE = 32, 8, 800
"""Width of conditions and of the decoder (unless it is XL); latent channels; samples per second, 32 of them to a frame."""
AUDIO = 0.1 * torch.randn(2, 10 * RATE, generator=torch.Generator().manual_seed(1))
"""10 s to work on."""
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
XL_DECODER = {"hidden_size": 40, "num_attention_heads": 8}
"""As in XL checkpoints, neither the hidden width (40) nor the width of conditions (32) is that of attention (64)."""


def build_pipeline(*, is_turbo: bool = True, is_xl: bool = False) -> AceStepPipeline:
    """A pipeline with a byte tokenizer and random modules whose attention bands are shorter than its inputs."""
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "sliding_window": 8, **HEADS}
    pooling = {"audio_acoustic_hidden_dim": CHANNELS, "num_attention_pooler_hidden_layers": 2, **sizes}
    condition_encoder = AceStepConditionEncoder(
        text_hidden_dim=WIDTH, timbre_hidden_dim=CHANNELS, num_lyric_encoder_hidden_layers=2,
        num_timbre_encoder_hidden_layers=2, **sizes,
    )  # fmt: skip
    condition_encoder.silence_latent = 0.1 * torch.randn(1, 1000, CHANNELS)
    text_sizes = {"vocab_size": 257, "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, **HEADS}
    decoder_sizes = {**sizes, **(XL_DECODER if is_xl else {})}
    pipeline = AceStepPipeline(
        vae=AutoencoderOobleck(
            encoder_hidden_size=2 * CHANNELS, downsampling_ratios=[2, 4, 4], channel_multiples=[1, 1, 1],
            decoder_channels=8, decoder_input_channels=CHANNELS, audio_channels=2, sampling_rate=RATE,
        ),
        text_encoder=Qwen3Model(Qwen3Config(max_position_embeddings=4096, **text_sizes)),
        tokenizer=_byte_tokenizer(),
        transformer=AceStepTransformer1DModel(
            in_channels=3 * CHANNELS, audio_acoustic_hidden_dim=CHANNELS, encoder_hidden_size=WIDTH,
            num_hidden_layers=2, is_turbo=is_turbo, **decoder_sizes,
        ),
        condition_encoder=condition_encoder,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
        audio_tokenizer=AceStepAudioTokenizer(fsq_dim=WIDTH, **pooling),
        audio_token_detokenizer=AceStepAudioTokenDetokenizer(**pooling),
    )  # fmt: skip
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            module.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words = Tokenizer(models.BPE(vocab={**letters, "<|endoftext|>": len(letters)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.add_special_tokens(["<|endoftext|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|endoftext|>", pad_token="<|endoftext|>", padding_side="right"
    )


@dataclass(frozen=True)
class Case:
    """A use of the pipeline. The duration is 10 s or more because the prompt tells it, and the model knows no shorter music."""

    task: str = "text2music"
    seconds: float = 10.0
    caption: str = "a string quartet"
    lyrics: str = ""
    metas: Metas = NO_METAS
    span_s: tuple[float, float] | None = None
    has_reference: bool = False
    cover_strength: float = 1.0
    is_base: bool = False
    is_xl: bool = False
    guidance: float = 7.0
    steps: int = 4
    shift: float = 3.0

    @property
    def pipeline(self) -> AceStepPipeline:
        return pipeline_of(self.is_base, self.is_xl)

    @property
    def rows(self) -> int:
        """Rows of the pipeline's forward: with guidance the condition and its negative make one."""
        return 2 if self.is_base else 1


@cache
def pipeline_of(is_base: bool, is_xl: bool) -> AceStepPipeline:
    return build_pipeline(is_turbo=not is_base, is_xl=is_xl)


@dataclass(frozen=True)
class Recording:
    """A run of the pipeline."""

    calls: Sequence[tuple[dict[str, Any], Tensor]]
    """Every forward of its decoder: the inputs by name, and the velocity."""
    levels: Sequence[float]
    """Its own timesteps."""
    condition: Condition
    clip: Tensor
    """Latents `[Tr, C]` of its timbre reference."""
    source: Tensor | None
    """Latents `[T, C]` of its source audio, before they become hints."""
    latents: Tensor
    """`[T, C]`."""

    @property
    def noise(self) -> Tensor:
        return self.calls[0][0]["hidden_states"][0]

    @property
    def context(self) -> Tensor:
        return self.calls[0][0]["context_latents"][0]


@cache
def record(case: Case) -> Recording:
    pipeline = case.pipeline
    calls: list[tuple[dict[str, Any], Tensor]] = []
    encoded: list[tuple[dict[str, Any], tuple[Tensor, Tensor]]] = []
    hooks = [
        pipeline.transformer.register_forward_hook(
            lambda module, args, kwargs, output: calls.append((kwargs, output[0])), with_kwargs=True
        ),
        pipeline.condition_encoder.register_forward_hook(
            lambda module, args, kwargs, output: encoded.append((kwargs, output)), with_kwargs=True
        ),
    ]
    meter = case.metas.meter
    source = None if case.task == "text2music" else AUDIO.repeat(1, 2)[:, : round(case.seconds * RATE)]
    start, end = case.span_s or (None, None)
    try:
        torch.manual_seed(4)
        latents = pipeline(
            case.caption, case.lyrics, case.seconds, task_type=case.task, src_audio=source,
            reference_audio=AUDIO.flip(1) if case.has_reference else None, repainting_start=start, repainting_end=end,
            bpm=case.metas.bpm, keyscale=case.metas.key, timesignature=None if meter is None else str(meter),
            audio_cover_strength=case.cover_strength, num_inference_steps=case.steps, shift=case.shift,
            guidance_scale=case.guidance if case.is_base else 1.0, output_type="latent",
        ).audios[0]  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()
    source_latents = None
    if source is not None:
        # The pipeline samples the codec's posterior, from the global generator and before it draws anything else.
        torch.manual_seed(4)
        like = (torch.device("cpu"), torch.float32)
        source_latents = pipeline.prepare_src_latents(*like, src_audio=source, task_type="repaint")[0][0].detach()
    inputs, condition = encoded[0]
    return Recording(
        calls=calls,
        levels=pipeline.scheduler.timesteps.tolist(),
        condition=Condition(*condition),
        clip=inputs["refer_audio_acoustic_hidden_states_packed"][0],
        source=source_latents,
        latents=latents,
    )
