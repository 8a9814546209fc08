# SPDX-License-Identifier: Apache-2.0
"""Loading checkpoints: both layouts, hub names, placement, and what is said of folders that cannot be loaded."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_checkpoint import ATTENTION, LATENT, TEXT_WIDTH, WIDTH, build_tiny_checkpoint

from engine_server.model import checkpoint as checkpoint_module
from engine_server.model import hub
from engine_server.model.checkpoint import load_checkpoint
from engine_server.model.layouts import MODULES, build, read_layout
from engine_server.model.memory import weight_bytes
from engine_server.model.original_layout import part_configs, rename, sort_names
from engine_server.model.placement import placement
from shared_protocol.errors import DemonError

XL_WIDTH = 48
WEIGHTS = "diffusion_pytorch_model.safetensors"
ORIGINAL_CONFIG = {
    "architectures": ["AceStepConditionGenerationModel"],
    "auto_map": {"AutoModel": "modeling_acestep_v15_turbo.AceStepConditionGenerationModel"},
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    **ATTENTION,
    "sliding_window": 16,
    "use_sliding_window": True,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_theta": 1_000_000,
    "rope_scaling": None,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "hidden_act": "silu",
    "in_channels": 3 * LATENT,
    "audio_acoustic_hidden_dim": LATENT,
    "timbre_hidden_dim": LATENT,
    "text_hidden_dim": TEXT_WIDTH,
    "num_lyric_encoder_hidden_layers": 1,
    "num_timbre_encoder_hidden_layers": 1,
    "num_attention_pooler_hidden_layers": 1,
    "patch_size": 2,
    "pool_window_size": 5,
    "fsq_dim": WIDTH,
    "fsq_input_levels": [8, 8, 8, 5, 5, 5],
    "fsq_input_num_quantizers": 1,
    "is_turbo": True,
    "model_version": "turbo",
}
PUBLISHED_2B = {
    **ORIGINAL_CONFIG,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "text_hidden_dim": 1024,
    "num_lyric_encoder_hidden_layers": 8,
    "num_timbre_encoder_hidden_layers": 4,
    "num_attention_pooler_hidden_layers": 2,
    "fsq_dim": 2048,
}
PUBLISHED_XL = {
    **PUBLISHED_2B,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "layer_types": ["sliding_attention", "full_attention"] * 16,
    "encoder_hidden_size": 2048,
    "encoder_intermediate_size": 6144,
    "encoder_num_attention_heads": 16,
    "encoder_num_key_value_heads": 8,
}


def original_name(part: str, name: str) -> str:
    """Upstream's name of a diffusers tensor, told from upstream's module tree and apart from the loader's table."""
    if name == "null_condition_emb":
        return name
    prefix = {"transformer": "decoder", "condition_encoder": "encoder", "audio_tokenizer": "tokenizer"}
    name = re.sub(r"attn\.to_([qkv])\.", r"attn.\1_proj.", name)
    name = re.sub(r"attn\.norm_([qk])\.", r"attn.\1_norm.", name)
    name = name.replace("attn.to_out.0.", "attn.o_proj.")
    name = re.sub(r"^proj_(in|out)_conv\.", r"proj_\1.1.", name)
    return f"{prefix.get(part, 'detokenizer')}.{name}"


def write_original(
    source: Path, root: Path, *, shards: int = 1, rotary: bool = False, config: dict | None = None
) -> Path:
    """A tiny diffusers checkpoint again in upstream's layout, its companions beside it; returns the decoder's folder."""
    folder = root / "acestep-v15-tiny"
    folder.mkdir(parents=True)
    state = {}
    for part in MODULES:
        for name, tensor in load_file(source / part / WEIGHTS).items():
            if name == "silence_latent":
                torch.save(tensor.transpose(1, 2).contiguous(), folder / "silence_latent.pt")
            else:
                state[original_name(part, name)] = tensor
    if rotary:
        for module in ("decoder", "encoder.lyric_encoder", "tokenizer.attention_pooler"):
            state[f"{module}.rotary_emb.inv_freq"] = torch.rand(4)
    write_weights(folder, state, shards)
    (folder / "config.json").write_text(json.dumps(config or ORIGINAL_CONFIG))
    shutil.copytree(source / "vae", root / "vae")
    shutil.copytree(source / "text_encoder", root / "Qwen3-Embedding-0.6B")
    shutil.copytree(source / "tokenizer", root / "Qwen3-Embedding-0.6B", dirs_exist_ok=True)
    return folder


def write_weights(folder: Path, state: dict[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(state, folder / "model.safetensors")
        return
    files = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
    weight_map = {name: files[index % shards] for index, name in enumerate(state)}
    for file in files:
        save_file({name: state[name] for name, home in weight_map.items() if home == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def edit_weights(path: Path, change) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path)


def code_of(name, **options) -> str:
    with pytest.raises(DemonError) as caught:
        load_checkpoint(str(name), **options)
    return caught.value.code


@pytest.fixture(scope="module")
def hinted(tmp_path_factory):
    """Folder of a tiny diffusers checkpoint with a 5 Hz tokenizer and without `demon.json`."""
    folder = build_tiny_checkpoint(tmp_path_factory.mktemp("hinted") / "tiny", cover_context="tokenizer")
    (folder / "demon.json").unlink()
    for part in MODULES:  # the original layout has one sliding window for all
        config = json.loads((folder / part / "config.json").read_text())
        (folder / part / "config.json").write_text(json.dumps({**config, "sliding_window": 16}))
    return folder


@pytest.fixture(scope="module")
def original(hinted, tmp_path_factory):
    """Folder of the same checkpoint in the original layout."""
    return write_original(hinted, tmp_path_factory.mktemp("original"))


@pytest.fixture
def broken(original, tmp_path):
    """A copy of the original checkpoint, with its companions, to damage."""
    shutil.copytree(original.parent, tmp_path / "copy")
    return tmp_path / "copy" / original.name


# The original layout


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of every module that a folder describes."""
    parts = read_layout(folder).parts
    modules = {name: build(name, part, device=torch.device("cpu"), dtype=torch.float32) for name, part in parts.items()}
    return {f"{name}.{key}": tensor for name, module in modules.items() for key, tensor in module.state_dict().items()}


@torch.no_grad()
@pytest.mark.parametrize(("shards", "rotary"), [(1, False), (1, True), (3, True)])
def test_the_original_layout_gives_the_same_model_as_diffusers_own(hinted, tmp_path, shards, rotary):
    folder = write_original(hinted, tmp_path, shards=shards, rotary=rotary)
    expected, tensors = tensors_of(hinted), tensors_of(folder)
    assert {name.partition(".")[0] for name in expected} == set(MODULES)
    assert set(tensors) == set(expected)
    assert [name for name in expected if not torch.equal(tensors[name], expected[name])] == []
    ours, theirs = load_checkpoint(str(hinted)), load_checkpoint(str(folder))
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 80, LATENT, generator=generator),
        "timestep": torch.tensor([0.7, 0.2]),
        "timestep_r": torch.tensor([0.7, 0.2]),
        "encoder_hidden_states": torch.randn(2, 9, WIDTH, generator=generator),
        "context_latents": torch.randn(2, 80, 2 * LATENT, generator=generator),
    }
    assert torch.equal(theirs.transformer(**inputs).sample, ours.transformer(**inputs).sample)
    source = inputs["hidden_states"][0]
    assert torch.equal(theirs.context(source), ours.context(source))
    assert torch.equal(theirs.condition("strings").states, ours.condition("strings").states)
    assert torch.equal(theirs.silence, ours.silence)
    assert (theirs.is_turbo, theirs.model_version) == (True, "turbo")


def test_a_full_size_checkpoint_has_the_677_tensors_that_upstream_publishes():
    names = set()
    with torch.device("meta"):
        for part, config in part_configs(PUBLISHED_2B).items():
            keys = set(MODULES[part].from_config(config).state_dict()) - {"silence_latent"}
            originals = {original_name(part, key) for key in keys}
            assert {rename(name) for name in originals} == {(part, key) for key in keys}
            names |= originals
    assert len(names) == 677
    parts, unexpected = sort_names(names)
    assert unexpected == []
    assert sum(len(part) for part in parts.values()) == 677


def test_xl_keeps_the_condition_and_the_tokenizer_at_the_width_that_its_configuration_states():
    with torch.device("meta"):
        modules = {part: MODULES[part].from_config(config) for part, config in part_configs(PUBLISHED_XL).items()}
    sizes = {part: sum(p.numel() for p in module.parameters()) / 1e6 for part, module in modules.items()}
    assert modules["transformer"].condition_embedder.weight.shape == (2560, 2048)
    assert modules["transformer"].layers[0].self_attn.to_q.weight.shape == (4096, 2560)
    assert sizes["transformer"] == pytest.approx(4168.9, abs=0.1)
    assert sizes["condition_encoder"] == pytest.approx(608, abs=1)
    assert sizes["audio_tokenizer"] == pytest.approx(105, abs=1)


def test_names_outside_the_layout_are_told_apart_from_tables_that_follow_from_the_configuration():
    parts, unexpected = sort_names(
        ["decoder.rotary_emb.inv_freq", "lm_head.weight", "decoder", "decoder.norm_out.weight"]
    )
    assert unexpected == ["lm_head.weight", "decoder"]
    assert parts["transformer"] == {"norm_out.weight": "decoder.norm_out.weight"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"head_dim": "8"}, "head_dim"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling"),
        ({"use_sliding_window": False}, "use_sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"layer_types": ["full_attention", "full_attention"]}, "layer_types"),
    ],
)
def test_a_configuration_that_the_modules_cannot_express_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        part_configs(ORIGINAL_CONFIG | change)


def test_rope_theta_is_found_where_newer_writers_put_it():
    config = {key: value for key, value in ORIGINAL_CONFIG.items() if key != "rope_theta"}
    nested = part_configs(config | {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}})
    assert nested["transformer"]["rope_theta"] == 5000.0


def test_a_silence_latent_may_also_be_safetensors(original, broken):
    stored = torch.load(broken / "silence_latent.pt", weights_only=True)
    (broken / "silence_latent.pt").unlink()
    save_file({"silence_latent": stored}, broken / "silence_latent.safetensors")
    assert torch.equal(load_checkpoint(str(broken)).silence, load_checkpoint(str(original)).silence)


# Companions


def test_companions_may_lie_elsewhere(original, tmp_path):
    lonely = shutil.copytree(original, tmp_path / "lonely" / "acestep-v15-base")
    assert code_of(lonely) == "E_CHECKPOINT_PARTS"
    loaded = load_checkpoint(str(lonely), companions=str(original.parent))
    assert loaded.content_hash == load_checkpoint(str(original)).content_hash
    assert loaded.name == "acestep-v15-base"


def test_missing_companions_are_named_with_the_place_to_put_them(original, tmp_path):
    lonely = shutil.copytree(original, tmp_path / "lonely" / "acestep-v15-base")
    shutil.copytree(original.parent / "vae", lonely.parent / "vae")
    with pytest.raises(DemonError, match=r"Qwen3-Embedding-0\.6B.*beside acestep-v15-base"):
        load_checkpoint(str(lonely))


def test_a_folder_of_checkpoints_names_those_in_it(original):
    with pytest.raises(DemonError, match="name the checkpoint in it: acestep-v15-tiny"):
        load_checkpoint(str(original.parent))


# Kinds of checkpoints


def test_without_settings_a_turbo_takes_few_steps_and_an_undistilled_one_many(hinted, tmp_path):
    turbo = load_checkpoint(str(hinted))
    assert (turbo.is_turbo, turbo.settings.steps, turbo.settings.shift) == (True, 8, 3.0)
    assert turbo.settings.dcw
    config = {**ORIGINAL_CONFIG, "is_turbo": False, "model_version": "sft"}
    sft = load_checkpoint(str(write_original(hinted, tmp_path, config=config)))
    assert (sft.is_turbo, sft.model_version, sft.settings.steps, sft.settings.shift) == (False, "sft", 50, 1.0)
    assert not sft.settings.dcw


def test_the_version_tells_a_turbo_when_the_configuration_does_not():
    config = {key: value for key, value in ORIGINAL_CONFIG.items() if key != "is_turbo"}
    assert part_configs(config)["transformer"]["is_turbo"]
    assert not part_configs({**config, "model_version": "base"})["transformer"]["is_turbo"]


@torch.no_grad()
def test_a_decoder_wider_than_its_condition_loads_from_both_layouts(tmp_path):
    folder = build_tiny_checkpoint(tmp_path / "xl", cover_context="tokenizer", decoder_width=XL_WIDTH)
    config = {
        **ORIGINAL_CONFIG,
        "hidden_size": XL_WIDTH,
        "encoder_hidden_size": WIDTH,
        "encoder_intermediate_size": 2 * WIDTH,
        "encoder_num_attention_heads": 4,
        "encoder_num_key_value_heads": None,
    }
    ours = load_checkpoint(str(folder))
    theirs = load_checkpoint(str(write_original(folder, tmp_path / "original", config=config)))
    for checkpoint in (ours, theirs):
        assert checkpoint.condition_width == WIDTH
        assert checkpoint.transformer.config.hidden_size == XL_WIDTH
        assert checkpoint.timbre_cls_token
    for key, tensor in ours.transformer.state_dict().items():
        assert torch.equal(theirs.transformer.state_dict()[key], tensor)


def test_the_timbre_token_follows_the_width_unless_the_settings_say_otherwise(tiny, tiny_folder, tmp_path):
    assert tiny.timbre_cls_token is False
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    settings = json.loads((copy / "demon.json").read_text())
    (copy / "demon.json").write_text(json.dumps({**settings, "timbre_cls_token": True}))
    told = load_checkpoint(str(copy))
    assert told.timbre_cls_token is True
    assert not torch.equal(told.condition("strings").states, tiny.condition("strings").states)


# Placement


@pytest.mark.parametrize(
    ("cuda", "device", "dtype", "expected"),
    [
        (0, None, None, ("cpu", torch.float32)),
        (0, "cpu", "bfloat16", ("cpu", torch.bfloat16)),
        (2, None, None, ("cuda:0", torch.bfloat16)),
        (0, "auto", None, ("cpu", torch.float32)),
        (1, "auto", None, ("cuda:0", torch.bfloat16)),
        (2, "cuda", "float32", ("cuda:0", torch.float32)),
        (2, "cpu", None, ("cpu", torch.float32)),
        (2, "cuda:1", "float16", ("cuda:1", torch.float16)),
    ],
)
def test_placement_follows_the_machine_unless_told(monkeypatch, cuda, device, dtype, expected):
    monkeypatch.delenv("DEMON_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    chosen = placement(device, dtype)
    assert (str(chosen.device), chosen.dtype) == expected


@pytest.mark.parametrize(
    ("variable", "device", "expected"),
    [
        ("cpu", None, "cpu"),
        ("cpu", "auto", "cpu"),
        ("cpu", "cuda", "cuda:0"),
        ("cuda:1", "auto", "cuda:1"),
        ("", None, "cuda:0"),
    ],
)
def test_the_environment_may_say_what_auto_means(monkeypatch, variable, device, expected):
    monkeypatch.setenv("DEMON_DEVICE", variable)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(placement(device, None).device) == expected
    monkeypatch.setenv("DEMON_DEVICE", "tpu")
    with pytest.raises(DemonError, match="E_DEVICE: DEMON_DEVICE is 'tpu'"):
        placement("auto", None)


@pytest.mark.parametrize(
    ("device", "dtype", "code"),
    [
        *[(name, None, "E_DEVICE") for name in ("cuda:2", "gpu", "meta", "cuda:-1", "cuda:", "CPU", "cpu:0")],
        (None, "int8", "E_DTYPE"),
    ],
)
def test_a_placement_that_cannot_be_is_named(monkeypatch, device, dtype, code):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DemonError) as caught:
        placement(device, dtype)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("cuda", "device", "build", "advice"),
    [
        (0, "cuda", None, "built for the CPU only"),
        (0, "cuda:1", "13.0", "demon doctor"),
        (1, "cuda:7", "13.0", "are cuda:0; take one"),
        (3, "cuda:7", "13.0", "are cuda:0 to cuda:2; take one"),
    ],
)
def test_where_there_is_no_such_gpu_it_is_said_what_to_do(monkeypatch, cuda, device, build, advice):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.version, "cuda", build)
    with pytest.raises(DemonError, match="E_DEVICE") as caught:
        placement(device, None)
    assert repr(device) in caught.value.message
    assert advice in caught.value.message
    assert cuda or caught.value.message.endswith("or take device cpu")


@pytest.mark.parametrize("kind", [torch.AcceleratorError, torch.OutOfMemoryError])
def test_a_gpu_that_others_have_filled_is_told_before_anything_is_loaded(hinted, monkeypatch, kind):
    """Then not even CUDA itself has room."""

    def fail(*_, **__):
        raise kind("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    for name in ("allow_tf32", "deterministic"):  # put back in the end
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", fail)
        with pytest.raises(DemonError, match="E_DEVICE: cuda:1 cannot be used now") as caught:
            load_checkpoint(str(hinted), device="cuda:1")
    assert "(CUDA error: out of memory); end what else uses this GPU" in caught.value.message


FULL = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00 MiB is free. "
    "Including non-PyTorch memory, this process has 7.9 GiB memory in use. If reserved but unallocated memory is large try"
)


@pytest.mark.parametrize("part", ["build", "_load_text_encoder", "load_codec"])
def test_a_checkpoint_that_does_not_fit_says_how_large_it_is(hinted, monkeypatch, part):
    def fail(*_, **__):
        raise FULL

    monkeypatch.setattr(checkpoint_module, part, fail)
    with pytest.raises(DemonError, match="E_MEMORY: tiny does not fit on cpu") as caught:
        load_checkpoint(str(hinted), device="cpu")
    text = caught.value.message
    assert "which 1.00 MiB is free" in text
    assert "non-PyTorch" not in text
    assert "cuda:N" in text
    assert caught.value.__cause__.__traceback__ is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_size_of_a_checkpoint_is_that_of_its_weights(hinted, original, dtype):
    for folder in (hinted, original):
        loaded = load_checkpoint(str(folder), device="cpu", dtype=dtype)
        modules = (
            loaded.transformer, loaded.codec, *loaded.structure._need_tokens(),
            loaded.conditioner._modules["text_encoder"], loaded.conditioner._modules["condition_encoder"],
        )  # fmt: skip
        expected = sum(tensor.nbytes for module in modules for tensor in module.parameters())
        buffers = 2**20 * 8  # the latents of silence, which are a buffer
        assert expected <= weight_bytes(read_layout(folder), loaded.placement) < expected + buffers


@torch.no_grad()
def test_only_the_decoder_and_the_encoders_take_the_type(hinted):
    checkpoint = load_checkpoint(str(hinted), dtype="bfloat16")
    full = load_checkpoint(str(hinted))
    states = checkpoint.condition("strings").states
    source = torch.randn(20, LATENT, generator=torch.Generator().manual_seed(0))
    assert {parameter.dtype for parameter in checkpoint.transformer.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in checkpoint.codec.parameters()} == {torch.float32}
    assert states.dtype == torch.float32
    assert torch.equal(states, states.bfloat16().float())
    assert torch.equal(checkpoint.context(source), full.context(source))
    assert torch.equal(checkpoint.silence, full.silence)


# Hub names


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache and no network; returns a function that puts a folder into the cache as a repository."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    def store(repository: str, folder: Path) -> None:
        home = tmp_path / "cache" / f"models--{repository.replace('/', '--')}"
        shutil.copytree(folder, home / "snapshots" / "0123abc")
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("0123abc")

    return store


def test_a_hub_name_loads_from_the_cache_without_network(cache, tiny, tiny_folder, original):
    cache("someone/tiny-diffusers", tiny_folder)
    cache("someone/tiny-original", original.parent)
    whole = load_checkpoint("someone/tiny-diffusers")
    assert (whole.name, whole.content_hash) == ("tiny-diffusers", tiny.content_hash)
    part = load_checkpoint("someone/tiny-original/acestep-v15-tiny")
    assert (part.name, part.content_hash) == ("acestep-v15-tiny", load_checkpoint(str(original)).content_hash)


def test_companions_may_be_a_hub_name(cache, original, tmp_path):
    lonely = shutil.copytree(original, tmp_path / "lonely" / "acestep-v15-base")
    cache("someone/acestep-v15-base", lonely)
    cache("someone/companions", original.parent)
    assert code_of("someone/acestep-v15-base") == "E_CHECKPOINT_PARTS"
    assert load_checkpoint("someone/acestep-v15-base", companions="someone/companions").name == "acestep-v15-base"


@pytest.mark.parametrize(
    "name", ["someone/unheard-of", "someone/unheard-of/folder", "nothing-here", "../up/there", "a b/c"]
)
def test_a_name_that_is_nowhere_is_named(cache, name):
    assert code_of(name) == "E_NO_CHECKPOINT"


def test_a_folder_that_the_cached_repository_lacks_is_named(cache, original):
    cache("someone/tiny-original", original.parent)
    assert code_of("someone/tiny-original/acestep-v15-giant") == "E_NO_CHECKPOINT"


def test_a_network_that_does_not_answer_is_given_up(cache, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "PROBE_SECONDS", 0.1)
        assert code_of("someone/unheard-of") == "E_NO_CHECKPOINT"
        silent.settimeout(5)
        silent.accept()[0].close()  # it was asked, and not somebody else


# The hash


def test_the_embedded_checkpoint_is_the_one_that_receipts_name():
    embedded = load_checkpoint("embedded")
    assert embedded.content_hash.startswith("0c6af91f89fb")
    assert not embedded.settings.dcw


@pytest.mark.parametrize("file", ["vae/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json", "demon.json"])
def test_the_content_hash_notices_a_byte_and_not_a_name(tiny, tiny_folder, tmp_path, file):
    copy = shutil.copytree(tiny_folder, tmp_path / "other-name")
    assert load_checkpoint(str(copy)).content_hash == tiny.content_hash
    data = (copy / file).read_bytes()
    damaged = data[:-1] + bytes([data[-1] ^ 1]) if file.endswith("safetensors") else data + b"\n"
    (copy / file).write_bytes(damaged)
    assert load_checkpoint(str(copy)).content_hash != tiny.content_hash


@pytest.mark.parametrize(
    "file",
    ["acestep-v15-tiny/silence_latent.pt", "acestep-v15-tiny/model.safetensors", "vae/config.json",
     "Qwen3-Embedding-0.6B/tokenizer.json"],
)  # fmt: skip
def test_the_content_hash_of_an_original_checkpoint_covers_its_companions(original, broken, file):
    path = broken.parent / file
    if path.suffix == ".pt":
        torch.save(torch.load(path, weights_only=True) + 1, path)
    elif path.suffix == ".safetensors":
        edit_weights(path, lambda state: state["null_condition_emb"].add_(1))
    else:
        path.write_text(path.read_text() + "\n")
    assert load_checkpoint(str(broken)).content_hash != load_checkpoint(str(original)).content_hash


# Damage


def test_tensors_that_are_missing_left_over_or_misshapen_are_named(broken):
    path = broken / "model.safetensors"
    whole = load_file(path)
    name = "decoder.layers.1.cross_attn.q_proj.weight"
    for change, said in [
        ({name: None}, r"1 missing \(layers.1.cross_attn.to_q.weight\)"),
        ({"decoder.layers.7.mlp_norm.weight": torch.ones(4)}, r"1 unexpected \(decoder.layers.7.mlp_norm.weight\)"),
        ({"lm_head.weight": torch.ones(4)}, r"1 unexpected \(lm_head.weight\)"),
        ({name: torch.ones(3, 3)}, r"1 of another shape \(layers.1.cross_attn.to_q.weight \(3, 3\)"),
        ({key: None for key in whole if key.startswith("tokenizer.")}, r"\d\d missing \(.*, \.\.\.\)"),
    ]:
        state = {key: value for key, value in {**whole, **change}.items() if value is not None}
        save_file(state, path)
        with pytest.raises(DemonError, match=said) as caught:
            load_checkpoint(str(broken))
        assert caught.value.code == "E_CHECKPOINT_KEYS"


@pytest.mark.parametrize("part", ["transformer", "condition_encoder", "text_encoder"])
def test_a_tensor_missing_from_diffusers_layout_is_not_made_up(tiny_folder, tmp_path, part):
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    path = copy / part / ("model.safetensors" if part == "text_encoder" else WEIGHTS)
    edit_weights(path, lambda state: state.popitem())
    assert code_of(copy) == "E_CHECKPOINT_KEYS"


def break_silence_shape(folder):
    torch.save(torch.zeros(1, LATENT, 100), folder / "silence_latent.pt")


def test_a_silence_latent_of_another_length_is_named(broken):
    break_silence_shape(broken)
    with pytest.raises(DemonError, match=r"silence_latent \(1, 100, 64\) instead of \(1, 15000, 64\)"):
        load_checkpoint(str(broken))


class RunsCode:
    def __reduce__(self):
        return (Path.touch, (Path("was-run"),))


def break_silence_with_code(folder):
    torch.save(RunsCode(), folder / "silence_latent.pt")


def break_silence_content(folder):
    torch.save({"silence": 1}, folder / "silence_latent.pt")


def break_silence_missing(folder):
    (folder / "silence_latent.pt").unlink()


def break_weights_cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def break_weights_pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def break_config(folder):
    (folder / "config.json").write_text('{"hidden_size": ')


def break_config_value(folder):
    (folder / "config.json").write_text(json.dumps({**ORIGINAL_CONFIG, "head_dim": None}))


def break_config_modules(folder):
    (folder / "config.json").write_text(json.dumps({**ORIGINAL_CONFIG, "fsq_input_levels": "many"}))


def break_shard_missing(folder):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_weights(folder, state, 2)
    (folder / "model-00002-of-00002.safetensors").unlink()


def break_index_escapes(folder):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"null_condition_emb": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "damage",
    [
        break_silence_with_code, break_silence_content, break_silence_missing, break_weights_cut, break_weights_pickled,
        break_config, break_config_value, break_config_modules, break_shard_missing, break_index_escapes,
    ],
)  # fmt: skip
def test_a_damaged_original_checkpoint_is_named(broken, damage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    damage(broken)
    assert code_of(broken) == "E_CHECKPOINT_LAYOUT"
    assert not Path("was-run").exists()


def test_pickled_weights_are_answered_with_what_to_do(broken):
    break_weights_pickled(broken)
    with pytest.raises(DemonError, match=r"pytorch_model\.bin, which is not loaded: convert it to safetensors"):
        load_checkpoint(str(broken))


def break_part_missing(folder):
    shutil.rmtree(folder / "vae")


def break_tokenizer_missing(folder):
    (folder / "demon.json").unlink()  # then the default is a 5 Hz tokenizer


def break_transformer_cut(folder):
    path = folder / "transformer" / WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])


def break_transformer_pickled(folder):
    torch.save({}, folder / "transformer" / "diffusion_pytorch_model.bin")
    (folder / "transformer" / WEIGHTS).unlink()


def break_text_encoder_cut(folder):
    path = folder / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def break_class(folder):
    path = folder / "transformer" / "config.json"
    path.write_text(path.read_text().replace("AceStepTransformer1DModel", "OtherTransformer"))


def break_codec_unknown(folder):
    path = folder / "vae" / "config.json"
    path.write_text(path.read_text().replace("SpectralCodec", "Mp3Codec"))


def break_codec_config(folder):
    (folder / "vae" / "config.json").write_text("{")


def break_settings(folder):
    (folder / "demon.json").write_text('{"steps": "many"}')


@pytest.mark.parametrize(
    "damage",
    [
        break_part_missing, break_tokenizer_missing, break_transformer_cut, break_transformer_pickled,
        break_text_encoder_cut, break_class, break_codec_unknown, break_codec_config, break_settings,
    ],
)  # fmt: skip
def test_a_damaged_diffusers_checkpoint_is_named(tiny_folder, tmp_path, damage):
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    damage(copy)
    assert code_of(copy) == "E_CHECKPOINT_LAYOUT"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    assert code_of(tmp_path / "nothing") == "E_NO_CHECKPOINT"


def test_a_backend_that_is_not_there_is_named(tiny_folder):
    assert code_of(tiny_folder, backend="abacus") == "E_BACKEND"
    assert code_of(tiny_folder, quantization="int1") == "E_BACKEND"


def test_the_decoder_runs_the_checkpoints_own_adapters(tiny_folder):
    checkpoint = load_checkpoint(str(tiny_folder))
    name = "layers.0.self_attn.to_q"
    width = checkpoint.transformer.get_submodule(name).weight.shape
    place = checkpoint.adapters.add({name: (torch.ones(1, width[1]), torch.ones(width[0], 1))})
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 20, LATENT, generator=generator), torch.randn(1, 20, 2 * LATENT, generator=generator)
    condition = checkpoint.condition("strings")
    with torch.no_grad():
        encoded = checkpoint.decoder.encode(condition.states, condition.mask)
        plain, silent, heard = (
            checkpoint.decoder(x, torch.tensor([0.5]), context, encoded, strengths)
            for strengths in (None, *(checkpoint.adapters.strengths({place: value})[None] for value in (0.0, 1.0)))
        )
    assert torch.equal(silent, plain)
    assert not torch.equal(heard, plain)
