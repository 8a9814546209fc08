# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint shows the decoder as prompt and context."""

from __future__ import annotations

import torch
from tiny_checkpoint import build_tiny_checkpoint

from engine_server.model.checkpoint import load_checkpoint


def test_a_prompt_is_encoded_once_and_padded_to_the_configured_length(tiny):
    assert tiny.condition("a") is tiny.condition("a")
    assert tiny.condition("a").mask.shape == (1, tiny.settings.condition_tokens)


def test_tokenizer_checkpoints_see_hints_that_are_the_same_in_every_window(tmp_path):
    checkpoint = load_checkpoint(str(build_tiny_checkpoint(tmp_path / "hints", cover_context="tokenizer")))
    source = torch.randn(80, 64, generator=torch.Generator().manual_seed(0))
    whole = checkpoint.context(source)
    assert whole.shape == (80, 128)
    assert bool((whole[:, 64:] == 1).all())
    assert not torch.equal(whole[:, :64], source)
    torch.testing.assert_close(checkpoint.context(source[20:60]), whole[20:60], atol=1e-5, rtol=0)


def test_raw_checkpoints_see_the_source_itself(tiny):
    source = torch.randn(20, 64)
    assert torch.equal(tiny.context(source)[:, :64], source)
