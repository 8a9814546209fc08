# SPDX-License-Identifier: Apache-2.0
"""LoRA files in every dialect, held to PEFT and diffusers themselves; and files that are refused, with the reason."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from diffusers.loaders.lora_pipeline import AceStepLoraLoaderMixin
from diffusers.models import AceStepTransformer1DModel
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from engine_server.model.lora import AdapterBank, linear_shapes
from engine_server.model.lora_files import lora_file, read_header, read_lora
from shared_protocol.errors import DemonError

WIDTH = 16
QUERY, OUT, GATE = "layers.0.self_attn.to_q", "layers.1.cross_attn.to_out.0", "layers.1.mlp.gate_proj"
ORIGINAL = {
    QUERY: "layers.0.self_attn.q_proj",
    OUT: "layers.1.cross_attn.o_proj",
    GATE: GATE,
}
RANK, ALPHA = 4, 6.0


def build_transformer():
    torch.manual_seed(1)
    return AceStepTransformer1DModel(
        num_hidden_layers=2, hidden_size=WIDTH, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, in_channels=24, audio_acoustic_hidden_dim=8, sliding_window=8,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def targets():
    return linear_shapes(build_transformer())


@pytest.fixture(scope="module")
def pairs(targets):
    """Factors as a trainer has them, before any scale."""
    generator = torch.Generator().manual_seed(2)
    return {
        name: (
            torch.randn(RANK, targets[name][1], generator=generator),
            torch.randn(targets[name][0], RANK, generator=generator),
        )
        for name in (QUERY, OUT, GATE)
    }


def keyed(pairs, spell, down="lora_A.weight", up="lora_B.weight", alpha=None):
    """Tensors of a file; `spell` gives a module's name."""
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors[f"{spell(name)}.{down}"], tensors[f"{spell(name)}.{up}"] = a.clone(), b.clone()
        if alpha is not None:
            tensors[f"{spell(name)}.alpha"] = torch.tensor(alpha)
    return tensors


def peft_name(name):
    return f"base_model.model.{ORIGINAL[name]}"


def kohya_name(name):
    return "lora_unet_" + ORIGINAL[name].replace(".", "_")


def write(path, tensors, metadata=None):
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, metadata=metadata)
    return path


def write_config(folder, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **settings}))


def same_factors(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True))


def refusal(path, targets, read=read_lora):
    with pytest.raises(DemonError) as caught:
        read(path, targets)
    assert str(path) in caught.value.message
    return caught.value


# Dialects


def test_one_adapter_gives_identical_factors_in_all_three_dialects(tmp_path, pairs, targets):
    folder = tmp_path / "peft"
    write(folder / "adapter_model.safetensors", keyed(pairs, peft_name))
    write_config(folder, r=RANK, lora_alpha=ALPHA)
    settings = json.dumps({"transformer.r": RANK, "transformer.lora_alpha": ALPHA})
    diffusers = write(
        tmp_path / "diffusers.safetensors",
        keyed(pairs, lambda name: f"transformer.{name}"),
        {"lora_adapter_metadata": settings},
    )
    kohya = write(tmp_path / "kohya.safetensors", keyed(pairs, kohya_name, "lora_down.weight", "lora_up.weight", ALPHA))
    read = [read_lora(path, targets) for path in (folder, diffusers, kohya)]
    expected = {name: (a, b * (ALPHA / RANK)) for name, (a, b) in pairs.items()}
    for lora in read:
        assert same_factors(lora.factors, expected)
        assert (lora.rank, lora.alpha) == (RANK, ALPHA)
    assert [lora.metadata["alpha_source"] for lora in read] == [
        "adapter_config.json", "lora_adapter_metadata", "tensors",
    ]  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "transformer.", "diffusion_model."])
@pytest.mark.parametrize("decoder", ["", "decoder."])
@pytest.mark.parametrize("factors", ["lora_A lora_B", "lora_A.default lora_B.default", "lora_down lora_up"])
@pytest.mark.parametrize("names", ["diffusers", "original"])
def test_dotted_names_are_found_behind_every_prefix(tmp_path, pairs, targets, prefix, decoder, factors, names):
    down, up = (f"{factor}.weight" for factor in factors.split())
    module = ORIGINAL.get if names == "original" else str
    path = write(tmp_path / "a.safetensors", keyed(pairs, lambda n: f"{prefix}{decoder}{module(n)}", down, up))
    assert same_factors(read_lora(path, targets).factors, pairs)


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_unet_decoder_", "lora_transformer_", "lycoris_"])
def test_every_linear_of_the_model_is_found_by_its_name_with_underscores(tmp_path, targets, prefix):
    every = {name: (torch.ones(1, inside), torch.ones(outside, 1)) for name, (outside, inside) in targets.items()}
    spell = lambda name: prefix + name.replace(".", "_")  # noqa: E731
    path = write(tmp_path / "a.safetensors", keyed(every, spell, "lora_down.weight", "lora_up.weight"))
    assert same_factors(read_lora(path, targets).factors, every)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_factors_are_float32_whatever_they_are_stored_in(tmp_path, pairs, targets, dtype):
    stored = {name: (a.to(dtype), b.to(dtype)) for name, (a, b) in pairs.items()}
    lora = read_lora(write(tmp_path / "a.safetensors", keyed(stored, peft_name)), targets)
    assert same_factors(lora.factors, {name: (a.float(), b.float()) for name, (a, b) in stored.items()})
    assert {factor.dtype for pair in lora.factors.values() for factor in pair} == {torch.float32}


# Scale


def test_without_alpha_the_scale_is_1_and_the_metadata_says_so(tmp_path, pairs, targets):
    lora = read_lora(write(tmp_path / "a.safetensors", keyed(pairs, peft_name), {"title": "choir"}), targets)
    assert same_factors(lora.factors, pairs)
    assert lora.alpha == RANK
    assert lora.metadata == {
        "title": "choir", "alpha_source": "nothing: alpha is taken to be the rank, a scale of 1",
    }  # fmt: skip


def test_alpha_tensors_come_before_settings_and_settings_before_plain_metadata(tmp_path, pairs, targets):
    write_config(tmp_path, r=RANK, lora_alpha=8.0)
    metadata = {"lora_alpha": "2"}
    tensors = read_lora(write(tmp_path / "a.safetensors", keyed(pairs, peft_name, alpha=ALPHA), metadata), targets)
    settings = read_lora(write(tmp_path / "b.safetensors", keyed(pairs, peft_name), metadata), targets)
    (tmp_path / "adapter_config.json").unlink()
    plain = read_lora(write(tmp_path / "c.safetensors", keyed(pairs, peft_name), metadata), targets)
    assert [lora.alpha for lora in (tensors, settings, plain)] == [ALPHA, 8.0, 2.0]
    assert torch.equal(plain.factors[GATE][1], pairs[GATE][1] * (2.0 / RANK))


def test_an_alpha_stored_as_a_whole_number_is_taken(tmp_path, pairs, targets):
    tensors = keyed(pairs, kohya_name, "lora_down.weight", "lora_up.weight", alpha=2)
    assert tensors[f"{kohya_name(GATE)}.alpha"].dtype == torch.int64
    lora = read_lora(write(tmp_path / "a.safetensors", tensors), targets)
    assert lora.alpha == 2.0
    assert torch.equal(lora.factors[GATE][1], pairs[GATE][1] * (2.0 / RANK))


def test_a_kohya_file_ignores_a_peft_configuration_that_happens_to_lie_beside_it(tmp_path, pairs, targets):
    write_config(tmp_path, r=99, lora_alpha=99)
    path = write(tmp_path / "a.safetensors", keyed(pairs, kohya_name, "lora_down.weight", "lora_up.weight", ALPHA))
    assert read_lora(path, targets).alpha == ALPHA


def merged_by_peft(transformer, config):
    """A PEFT model with random factors, and the weights that PEFT merges from them."""
    model = get_peft_model(transformer, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def composed(lora, transformer):
    """Weights with the LoRA at strength 1, by the names of their Linears."""
    bank = AdapterBank()
    place = bank.add(lora.factors)
    strengths = bank.strengths({place: 1.0})
    return {
        name: bank.compose(name, module.weight.detach(), strengths)
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


@pytest.mark.parametrize("use_rslora", [False, True])
def test_a_peft_folder_is_what_peft_merges(tmp_path, targets, use_rslora):
    config = LoraConfig(
        r=4, lora_alpha=6, use_rslora=use_rslora, target_modules=["to_q", "to_out.0", "gate_proj"],
        rank_pattern={"layers.0.self_attn.to_q": 2, r"layers\.\d\.mlp\.gate_proj": 3},
        alpha_pattern={"self_attn.to_q": 5, "layers.1.cross_attn.to_out.0": 1},
    )  # fmt: skip
    model = merged_by_peft(build_transformer(), config)
    model.save_pretrained(tmp_path / "folder")
    lora = read_lora(tmp_path / "folder", targets)
    theirs = {n: m.weight for n, m in model.merge_and_unload().named_modules() if isinstance(m, torch.nn.Linear)}
    ours = composed(lora, build_transformer())
    assert len(lora.factors) == 10
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("dialect", ["original PEFT", "diffusers"])
def test_a_file_changes_weights_as_diffusers_own_ace_step_loader_does(tmp_path, pairs, targets, dialect):
    if dialect == "diffusers":
        trained = build_transformer()
        trained.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(pairs)), "a")
        with torch.no_grad():
            for name, (a, b) in pairs.items():
                trained.get_submodule(name).lora_A["a"].weight.copy_(a)
                trained.get_submodule(name).lora_B["a"].weight.copy_(b)
        layers = {
            name: parameter.detach()
            for name, parameter in keyed(pairs, str).items()
        }  # fmt: skip
        AceStepLoraLoaderMixin.save_lora_weights(
            tmp_path / "saved", layers, transformer_lora_adapter_metadata=trained.peft_config["a"].to_dict()
        )
        path = lora_file(tmp_path / "saved")
    else:
        path = write(tmp_path / "a.safetensors", keyed(pairs, peft_name))
    transformer = build_transformer()
    tensors, metadata = AceStepLoraLoaderMixin.lora_state_dict(str(path), return_lora_metadata=True)
    AceStepLoraLoaderMixin.load_lora_into_transformer(tensors, transformer, metadata=metadata)
    transformer.fuse_lora()
    ours = composed(read_lora(path, targets), build_transformer())
    changed = 0
    for name, weight in build_transformer().state_dict().items():
        module = name.removesuffix(".weight")
        if module in ours:
            layer = transformer.get_submodule(module)
            theirs = getattr(layer, "base_layer", layer).weight
            torch.testing.assert_close(ours[module], theirs, atol=1e-5, rtol=0, msg=module)
            changed += not torch.equal(theirs, weight)
    assert changed == len(pairs)


# Reading


def test_the_header_tells_rank_and_fit_without_reading_a_weight(tmp_path, pairs, targets):
    broken = {name: (a, b * float("nan")) for name, (a, b) in pairs.items()}
    path = write(tmp_path / "a.safetensors", keyed(broken, peft_name))
    assert read_header(path, targets).rank == RANK
    assert refusal(path, targets).code == "E_NOT_FINITE"


def test_the_content_hash_is_the_files_and_follows_the_configuration_that_sets_its_scale(tmp_path, pairs, targets):
    path = write(tmp_path / "a.safetensors", keyed(pairs, peft_name))
    plain = read_lora(path, targets).content_hash
    assert plain == hashlib.sha256(path.read_bytes()).hexdigest()
    hashes = {plain}
    for alpha in (4, 8):
        write_config(tmp_path, r=RANK, lora_alpha=alpha)
        hashes.add(read_lora(path, targets).content_hash)
    assert len(hashes) == 3


def test_factors_stay_as_they_are_when_the_file_changes(tmp_path, pairs, targets):
    path = write(tmp_path / "a.safetensors", keyed(pairs, peft_name))
    lora = read_lora(path, targets)
    path.write_bytes(bytes(path.stat().st_size))
    assert same_factors(lora.factors, pairs)


# Refusals


def test_what_is_not_safetensors_is_refused(tmp_path, pairs, targets):
    whole = write(tmp_path / "a.safetensors", keyed(pairs, peft_name)).read_bytes()
    (tmp_path / "folder").mkdir()
    contents = {"truncated": whole[:-1], "headless": whole[:20], "empty": b"", "text": b"a LoRA"}
    for name, data in contents.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        assert refusal(path, targets).code == "E_LORA_FILE", name
    for path in (tmp_path / "missing.safetensors", tmp_path / "folder"):
        assert refusal(path, targets).code == "E_LORA_FILE"


def test_a_pickle_is_never_opened(tmp_path, targets):
    for suffix in (".pt", ".ckpt", ".bin"):
        path = tmp_path / f"a{suffix}"
        torch.save({}, path)
        error = refusal(path, targets)
        assert error.code == "E_LORA_FILE"
        assert "pickle" in error.message


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("base_model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", "DoRA"),
        ("lora_unet_layers_0_self_attn_q_proj.dora_scale", "DoRA"),
        ("lora_unet_layers_0_self_attn_q_proj.hada_w1_a", "LoHa"),
        ("lycoris_layers_0_self_attn_q_proj.lokr_w1", "LoKr"),
        ("lora_unet_proj_in_1.lora_mid.weight", "convolution"),
        ("base_model.model.layers.0.self_attn.q_proj.lora_B.bias", "bias"),
        ("diffusion_model.layers.0.mlp.gate_proj.diff", "differences"),
        ("diffusion_model.layers.0.mlp.gate_proj.weight", "no LoRA key"),
    ],
)
def test_another_kind_of_adapter_is_refused_even_beside_good_keys(tmp_path, pairs, targets, key, kind):
    path = write(tmp_path / "a.safetensors", {**keyed(pairs, peft_name), key: torch.zeros(2, 2)})
    error = refusal(path, targets, read_header)
    assert error.code == "E_LORA_KIND"
    assert key in error.message
    assert kind in error.message


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "no LoRA keys"),
        ({"layers.0.self_attn.q_proj.alpha": torch.tensor(1.0)}, "no LoRA keys"),
        (
            {
                "decoder.proj_in.1.lora_A.weight": torch.zeros(2, 24, 2),
                "decoder.proj_in.1.lora_B.weight": torch.zeros(16, 2, 1),
            },
            "convolution",
        ),
        (
            {
                f"{QUERY}.lora_A.weight": torch.zeros(2, 16, dtype=torch.int8),
                f"{QUERY}.lora_B.weight": torch.zeros(32, 2),
            },
            "I8",
        ),
    ],
)
def test_a_file_without_low_rank_factors_of_linears_is_refused(tmp_path, targets, tensors, reason):
    error = refusal(write(tmp_path / "a.safetensors", tensors), targets, read_header)
    assert error.code == "E_LORA_KIND"
    assert reason in error.message


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"peft_type": "LOHA"}])
def test_a_configuration_of_another_kind_is_refused(tmp_path, pairs, targets, settings):
    write_config(tmp_path, **settings)
    path = write(tmp_path / "a.safetensors", keyed(pairs, peft_name))
    assert refusal(path, targets, read_header).code == "E_LORA_KIND"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"lora_alpha": "much"}', '{"r": 4, "alpha_pattern": {"(": 1}}', '{"lora_alpha": [1]}']
)
def test_a_configuration_that_cannot_be_read_is_refused(tmp_path, pairs, targets, text):
    (tmp_path / "adapter_config.json").write_text(text)
    path = write(tmp_path / "a.safetensors", keyed(pairs, peft_name))
    assert refusal(path, targets).code == "E_LORA_FILE"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora_A.weight": None}, ["lacks its down (A) factor"]),
        ({"lora_B.weight": None}, ["lacks its up (B) factor"]),
        ({"lora_A.weight": torch.zeros(3, WIDTH)}, ["[3, 16]", "[32, 4]", "disagree about the rank"]),
        ({"lora_A.weight": torch.zeros(0, WIDTH), "lora_B.weight": torch.zeros(32, 0)}, ["disagree about the rank"]),
        ({"lora_A.weight": torch.zeros(RANK, 20)}, ["[32, 20]", "[32, 16]"]),
        ({"lora_B.weight": torch.zeros(30, RANK)}, ["[30, 16]", "[32, 16]"]),
        ({"alpha": torch.zeros(2)}, ["[2]", "alpha is one number"]),
    ],
)
def test_factors_that_do_not_fit_are_refused_with_key_and_shapes(tmp_path, pairs, targets, change, words):
    tensors = keyed(pairs, peft_name)
    for part, tensor in change.items():
        tensors[f"{peft_name(QUERY)}.{part}"] = tensor
    path = write(tmp_path / "a.safetensors", {key: tensor for key, tensor in tensors.items() if tensor is not None})
    error = refusal(path, targets)
    assert error.code == "E_LORA_SHAPE"
    for word in [peft_name(QUERY), *words]:
        assert word in error.message


def test_a_rank_that_the_configuration_contradicts_is_refused(tmp_path, pairs, targets):
    write_config(tmp_path, r=8, lora_alpha=8)
    error = refusal(write(tmp_path / "a.safetensors", keyed(pairs, peft_name)), targets, read_header)
    assert error.code == "E_LORA_SHAPE"
    assert "has rank 4, and adapter_config.json says 8" in error.message


@pytest.mark.parametrize(
    ("file_shape", "model_shape", "words"),
    [
        ((4096, 2560), (2048, 2048), "made for ACE-Step XL, and this is 2B"),
        ((2048, 2048), (4096, 2560), "made for ACE-Step 2B, and this is XL"),
        ((2048, 2048), (32, 16), "made for ACE-Step 2B, and this is another model"),
    ],
)
def test_a_lora_of_another_model_size_is_told_as_such(tmp_path, file_shape, model_shape, words):
    outside, inside = file_shape
    # A file of more layers than the model has is first of another size, and only then unknown by name.
    layers = {
        f"layers.{number}.self_attn.to_q": (torch.zeros(1, inside), torch.zeros(outside, 1)) for number in (3, 24)
    }
    path = write(tmp_path / "a.safetensors", keyed(layers, "base_model.model.{}".format))
    error = refusal(path, {"layers.3.self_attn.to_q": model_shape}, read_header)
    assert error.code == "E_LORA_SHAPE"
    assert words in error.message


def test_names_that_the_model_lacks_are_listed_and_never_dropped(tmp_path, pairs, targets):
    strangers = {f"layers.{number}.self_attn.q_proj": pairs[QUERY] for number in range(2, 8)}
    tensors = {**keyed(pairs, peft_name), **keyed(strangers, "base_model.model.{}".format)}
    error = refusal(write(tmp_path / "a.safetensors", tensors), targets, read_header)
    assert error.code == "E_LORA_NAMES"
    assert error.message.endswith(
        "the model has no base_model.model.layers.2.self_attn.q_proj, base_model.model.layers.3.self_attn.q_proj, "
        "base_model.model.layers.4.self_attn.q_proj, base_model.model.layers.5.self_attn.q_proj and 2 more"
    )


@pytest.mark.parametrize("spell", [lambda name: f"transformer.{name}", "base_model.model.decoder.{}".format])
def test_two_modules_for_one_linear_are_refused(tmp_path, pairs, targets, spell):
    path = write(tmp_path / "a.safetensors", {**keyed(pairs, peft_name), **keyed(pairs, spell)})
    error = refusal(path, targets, read_header)
    assert error.code == "E_LORA_NAMES"
    assert "both change" in error.message


def test_several_adapters_in_one_file_are_refused(tmp_path, pairs, targets):
    second = keyed(pairs, peft_name, "lora_A.second.weight", "lora_B.second.weight")
    error = refusal(write(tmp_path / "a.safetensors", {**keyed(pairs, peft_name), **second}), targets, read_header)
    assert error.code == "E_LORA_NAMES"
    assert "lora_A.second.weight" in error.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_key(tmp_path, pairs, targets, value):
    for part in ("lora_A.weight", "lora_B.weight", "alpha"):
        tensors = keyed(pairs, peft_name, alpha=ALPHA)
        key = f"{peft_name(OUT)}.{part}"
        tensors[key].view(-1)[0] = value
        error = refusal(write(tmp_path / "a.safetensors", tensors), targets)
        assert error.code == "E_NOT_FINITE"
        assert key in error.message
