# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, conditioning and the decoder's forward, on random weights of diffusers' own classes."""

from __future__ import annotations

import shutil

import pytest
import torch
from diffusers import AutoencoderOobleck
from tiny_checkpoint import build_tiny_checkpoint

from engine_server.model.checkpoint import content_hash, load_checkpoint
from engine_server.model.codec import OobleckCodec, decoder_reach, encoder_reach
from engine_server.model.conditioning import Condition, format_lyrics, format_prompt, pad_condition
from engine_server.model.dit import DitForward
from shared_protocol.errors import DemonError

ACE_STEP_STRIDES = (2, 4, 4, 6, 10)


@pytest.fixture(scope="module")
def batch(tiny):
    generator = torch.Generator().manual_seed(3)
    condition = tiny.condition("strings")
    return {
        "x": torch.randn(2, 40, 64, generator=generator),
        "t": torch.tensor([0.7, 0.2]),
        "context": torch.randn(2, 40, 128, generator=generator),
        "states": condition.states.expand(2, -1, -1),
        "mask": condition.mask.expand(2, -1),
    }


def real_tokens(batch):
    return batch["states"][:, : int(batch["mask"][0].sum())]


@torch.no_grad()
def test_the_forward_is_diffusers_own_when_nothing_is_padded(tiny, batch):
    transformer = tiny.decoder._model
    states = real_tokens(batch)
    for frames in (40, 20):
        x, context = batch["x"][:, :frames], batch["context"][:, :frames]
        theirs = transformer(
            hidden_states=x, timestep=batch["t"], timestep_r=batch["t"], encoder_hidden_states=states,
            context_latents=context, return_dict=False,
        )[0]  # fmt: skip
        assert torch.equal(DitForward(transformer)(x, batch["t"], states, None, context), theirs)


@torch.no_grad()
def test_padding_does_not_change_a_row(tiny, batch):
    full = tiny.decoder(batch["x"], batch["t"], batch["states"], batch["mask"], batch["context"])
    cut = tiny.decoder(batch["x"], batch["t"], real_tokens(batch), None, batch["context"])
    torch.testing.assert_close(full, cut, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("rows", [4, 8])
def test_a_rows_bits_do_not_depend_on_its_place_or_its_neighbours(tiny, rows):
    """What the whole design rests on: holds on this machine for the batches that the ring uses."""
    generator = torch.Generator().manual_seed(1)
    condition = tiny.condition("strings")
    x, context = torch.randn(rows, 40, 64, generator=generator), torch.randn(rows, 40, 128, generator=generator)
    states, mask, t = condition.states.expand(rows, -1, -1), condition.mask.expand(rows, -1), torch.rand(rows)
    together = tiny.decoder(x, t, states, mask, context)
    order = torch.randperm(rows, generator=generator)
    moved = tiny.decoder(x[order], t[order], states, mask, context[order])
    assert torch.equal(moved, together[order])
    lonely = torch.zeros_like(x)
    lonely[0] = x[0]
    assert torch.equal(
        tiny.decoder(lonely, t, states, mask, context * (torch.arange(rows) == 0)[:, None, None])[0], together[0]
    )


def test_the_prompt_follows_upstreams_template():
    text = format_prompt("a string quartet")
    assert text.startswith(
        "# Instruction\nGenerate audio semantic tokens based on the given conditions:\n\n# Caption\n"
    )
    assert "a string quartet\n\n# Metas\n- bpm: N/A\n" in text
    assert text.endswith("- duration: 30 seconds\n<|endoftext|>\n")
    assert format_lyrics() == "# Languages\nen\n\n# Lyric\n<|endoftext|>"


def test_conditions_are_padded_to_a_length_that_the_configuration_fixes(tiny):
    condition = Condition(torch.ones(1, 70, 8), torch.ones(1, 70, dtype=torch.bool))
    assert pad_condition(condition, 96).states.shape == (1, 96, 8)
    assert pad_condition(condition, 32).mask.sum() == 70
    assert pad_condition(condition, 32).mask.shape == (1, 128)
    assert tiny.condition("a") is tiny.condition("a")


def test_oobleck_margins_follow_from_its_strides():
    assert encoder_reach(ACE_STEP_STRIDES) == 14_084
    assert decoder_reach(ACE_STEP_STRIDES) == pytest.approx(9.34, abs=0.01)
    assert decoder_reach((2, 4, 4)) == pytest.approx(19, abs=1)


@torch.no_grad()
def test_oobleck_windows_equal_the_whole():
    torch.manual_seed(0)
    vae = AutoencoderOobleck(
        encoder_hidden_size=16, downsampling_ratios=[2, 4, 4], channel_multiples=[1, 1, 1], decoder_channels=8,
        decoder_input_channels=8, audio_channels=2, sampling_rate=800,
    ).eval()  # fmt: skip
    codec = OobleckCodec(vae)
    assert (codec.sample_rate, codec.hop, codec.latent_channels) == (800, 32, 8)
    audio = torch.randn(1, 2, 120 * codec.hop, generator=torch.Generator().manual_seed(0))
    latents = codec.encode(audio)
    assert torch.equal(latents, codec.encode(audio))
    whole = codec.decode(latents)
    enc, dec, hop = codec.encoder_margin, codec.decoder_margin, codec.hop
    first, stop = 50, 70
    part = codec.encode(audio[..., (first - enc) * hop : (stop + enc) * hop])[:, enc:-enc]
    torch.testing.assert_close(part, latents[:, first:stop], atol=1e-6, rtol=0)
    window = codec.decode(latents[:, first - dec : stop + dec])[..., dec * hop : -dec * hop]
    torch.testing.assert_close(window, whole[..., first * hop : stop * hop], atol=1e-6, rtol=0)


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


def test_the_content_hash_notices_a_weight_and_a_name(tiny_folder, tmp_path):
    copy = tmp_path / "other-name"
    shutil.copytree(tiny_folder, copy)
    assert content_hash(copy) == content_hash(tiny_folder)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert content_hash(copy) != content_hash(tiny_folder)


def break_nothing_there(folder):
    shutil.rmtree(folder)


def break_part_missing(folder):
    shutil.rmtree(folder / "vae")


def break_weights_cut(folder):
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def break_codec_unknown(folder):
    path = folder / "vae" / "config.json"
    path.write_text(path.read_text().replace("SpectralCodec", "Mp3Codec"))


def break_settings(folder):
    (folder / "demon.json").write_text('{"steps": "many"}')


def break_pickles(folder):
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save({}, folder / "transformer" / "diffusion_pytorch_model.bin")
    weights.unlink()


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (break_nothing_there, "E_NO_CHECKPOINT"),
        (break_part_missing, "E_CHECKPOINT_LAYOUT"),
        (break_weights_cut, "E_CHECKPOINT_LAYOUT"),
        (break_codec_unknown, "E_CHECKPOINT_LAYOUT"),
        (break_settings, "E_CHECKPOINT_LAYOUT"),
        (break_pickles, "E_CHECKPOINT_LAYOUT"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_named(tiny_folder, tmp_path, damage, code):
    copy = tmp_path / "broken"
    shutil.copytree(tiny_folder, copy)
    damage(copy)
    with pytest.raises(DemonError) as caught:
        load_checkpoint(str(copy))
    assert caught.value.code == code
