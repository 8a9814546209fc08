# SPDX-License-Identifier: Apache-2.0
"""Adapters beside weights: exact where the design promises it, for every row, in any order of coming and going; and the
library that reads them from files while others play."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from diffusers.models import AceStepTransformer1DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from engine_server.model import lora_library
from engine_server.model.dit import DitForward
from engine_server.model.lora import AdapterBank, linear_shapes
from engine_server.model.lora_library import LoraLibrary, LoraState
from shared_protocol.errors import DemonError

WIDTH, HIDDEN, FRAMES = 12, 20, 10


class Layers(nn.Module):
    """Two Linears of the decoder, with a nonlinearity between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.gate_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down_proj = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x, bank=None, strengths=None):
        """`[B, T, WIDTH]` through both layers with the branches of a bank, as a decoder's forward adds them."""
        hidden = branched(self.gate_proj, "gate_proj", x, bank, strengths)
        return branched(self.down_proj, "down_proj", torch.nn.functional.silu(hidden), bank, strengths)


def branched(linear, name, x, bank, strengths):
    y = linear(x)
    for place, (down, up) in [] if bank is None else bank.branches(name):
        y = y + ((x @ down.T) * strengths[:, place, None, None]) @ up.T
    return y


def adapter(seed, rank=3):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(rank, inside, generator=generator), torch.randn(outside, rank, generator=generator))
        for name, (outside, inside) in linear_shapes(Layers()).items()
    }


@pytest.fixture(scope="module")
def layers():
    return Layers().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def x():
    return torch.randn(4, FRAMES, WIDTH, generator=torch.Generator().manual_seed(6))


def rows(*strengths):
    return torch.tensor(strengths)


# The bank


def test_strength_0_is_no_adapter_at_all(layers, x):
    bank = AdapterBank()
    bank.add(adapter(1))
    assert torch.equal(layers(x, bank, torch.zeros(4, 1)), layers(x))


def test_removing_an_adapter_restores_every_bit(layers, x):
    bank = AdapterBank()
    first = bank.add(adapter(1))
    before = layers(x, bank, torch.full((4, 1), 0.7))
    second = bank.add(adapter(2))
    both = layers(x, bank, torch.full((4, 2), 0.7))
    bank.remove(second)
    assert torch.equal(layers(x, bank, rows(*[[0.7, 0.0]] * 4)), before)
    bank.remove(first)
    assert torch.equal(layers(x, bank, torch.zeros(4, 2)), layers(x))
    assert not torch.equal(both, before)


def test_branches_amount_to_the_composed_weights_of_each_row(layers, x):
    bank = AdapterBank()
    for seed in (1, 2):
        bank.add({name: (down * 0.3, up * 0.3) for name, (down, up) in adapter(seed).items()})
    strengths = rows([0.0, 0.0], [1.0, 0.0], [0.5, 2.0], [-1.0, 0.25])
    heard = layers(x, bank, strengths)
    for row, strength in enumerate(strengths):
        merged = Layers().requires_grad_(False)
        for name, linear in merged.named_children():
            linear.weight.copy_(bank.compose(name, linear.weight, strength))
        torch.testing.assert_close(heard[row], merged(x)[row], atol=1e-5, rtol=1e-5)


def test_a_row_hears_its_own_adapters_only(layers, x):
    bank = AdapterBank()
    bank.add(adapter(1))
    bank.add(adapter(2))
    mixed = layers(x, bank, rows([1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.5, 0.5]))
    for row, strength in enumerate([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.5, 0.5]]):
        assert torch.equal(mixed[row], layers(x, bank, rows(*[strength] * 4))[row])


@settings(max_examples=60)
@given(st.data())
def test_a_rows_bits_do_not_depend_on_adapters_it_does_not_use(data):
    layers, x = (
        Layers().requires_grad_(False),
        torch.randn(4, FRAMES, WIDTH, generator=torch.Generator().manual_seed(7)),
    )
    bank, places = AdapterBank(), {}
    for seed in range(data.draw(st.integers(1, 6))):
        if places and data.draw(st.booleans()):
            bank.remove(places.pop(data.draw(st.sampled_from(sorted(places)))))
        places[seed] = bank.add(adapter(seed))
    used = {seed: 0.5 + seed / 4 for seed in places if data.draw(st.booleans())}
    alone = AdapterBank()
    alone_places = {seed: alone.add(adapter(seed)) for seed in used}  # in the same order
    here = bank.strengths({places[seed]: strength for seed, strength in used.items()})
    there = alone.strengths({alone_places[seed]: strength for seed, strength in used.items()})
    assert torch.equal(layers(x, bank, here.expand(4, -1)), layers(x, alone, there.expand(4, -1)))


def test_a_freed_column_is_used_again_and_its_new_adapter_is_applied_last():
    bank = AdapterBank()
    places = [bank.add(adapter(seed)) for seed in (1, 2, 3)]
    assert places == [0, 1, 2]
    bank.remove(0)
    bank.remove(1)
    assert bank.size == 3
    assert bank.add(adapter(4)) == 0
    assert [place for place, _ in bank.branches("gate_proj")] == [2, 0]
    assert bank.size == 3
    assert torch.equal(bank.branches("gate_proj")[1][1][0], adapter(4)["gate_proj"][0])


def test_a_linear_that_no_adapter_names_has_no_branches():
    bank = AdapterBank()
    bank.add({"gate_proj": adapter(1)["gate_proj"]})
    assert bank.branches("down_proj") == ()


def test_every_change_of_branches_is_a_new_version():
    bank = AdapterBank()
    versions = [bank.version]
    for change in (lambda: bank.add(adapter(1)), lambda: bank.to("cpu", torch.bfloat16), lambda: bank.remove(0)):
        change()
        versions.append(bank.version)
    assert versions == sorted(set(versions))


def test_strengths_are_one_row_of_numbers_by_place():
    bank = AdapterBank()
    for seed in (1, 2, 3):
        bank.add(adapter(seed))
    bank.remove(1)
    row = bank.strengths({2: 0.5})
    assert torch.equal(row, torch.tensor([0.0, 0.0, 0.5]))
    assert row.dtype == torch.float32
    assert bank.strengths({}).shape == (bank.size,)
    with pytest.raises(ValueError, match=r"no adapter at \[1, 7\]; places taken: \[0, 2\]"):
        bank.strengths({0: 1.0, 1: 1.0, 7: 1.0})


def test_a_place_without_an_adapter_cannot_be_removed():
    bank = AdapterBank()
    bank.remove(bank.add(adapter(1)))
    with pytest.raises(ValueError, match="no adapter at 0"):
        bank.remove(0)


@pytest.mark.parametrize("shapes", [((3, 12), (20, 4)), ((3, 12, 1), (20, 3)), ((3,), (3,))])
def test_factors_that_do_not_multiply_are_refused_by_name(shapes):
    with pytest.raises(ValueError, match="gate_proj"):
        AdapterBank().add({"gate_proj": (torch.zeros(shapes[0]), torch.zeros(shapes[1]))})


def test_composed_weights_are_summed_in_float32_and_cast_once(layers):
    bank = AdapterBank()
    bank.to("cpu", torch.bfloat16)
    factors = [adapter(seed) for seed in (1, 2)]
    for each in factors:
        bank.add(each)
    weight = layers.gate_proj.weight.bfloat16()
    composed = bank.compose("gate_proj", weight, bank.strengths({0: 0.3, 1: 0.7}))
    exact = weight.float()
    for each, strength in zip(factors, (0.3, 0.7), strict=True):
        down, up = each["gate_proj"]
        exact = exact + strength * (up @ down)
    assert composed.dtype == torch.bfloat16
    torch.testing.assert_close(composed.float(), exact, atol=0, rtol=2**-8)
    assert (composed != exact.bfloat16()).float().mean() < 0.02  # the sum may round the other way once in a while


def test_composing_takes_the_exact_factors_whatever_the_banks_type(layers):
    def composed(dtype):
        bank = AdapterBank()
        bank.to("cpu", dtype)
        bank.add(adapter(1))
        return bank.compose("gate_proj", layers.gate_proj.weight, torch.tensor([0.7]))

    assert torch.equal(composed(torch.bfloat16), composed(torch.float32))


def test_composing_with_strength_0_copies_the_weight_exactly(layers):
    bank = AdapterBank()
    bank.add(adapter(1))
    weight = layers.gate_proj.weight
    composed = bank.compose("gate_proj", weight, torch.zeros(1))
    assert torch.equal(composed, weight)
    assert composed.data_ptr() != weight.data_ptr()
    with pytest.raises(ValueError, match=r"strengths: expected \[1\], got \[2\]"):
        bank.compose("gate_proj", weight, torch.zeros(2))


def test_a_bank_that_went_to_bfloat16_and_back_is_bit_for_bit_itself(layers, x):
    bank = AdapterBank()
    bank.add(adapter(1))
    before = layers(x, bank, torch.ones(4, 1))
    bank.to("cpu", torch.bfloat16)
    bank.add(adapter(2))
    assert {factor.dtype for _, pair in bank.branches("gate_proj") for factor in pair} == {torch.bfloat16}
    bank.to("cpu", torch.float32)
    assert torch.equal(layers(x, bank, rows(*[[1.0, 0.0]] * 4)), before)


def test_a_snapshot_stays_as_it_was(layers, x):
    bank = AdapterBank()
    place = bank.add(adapter(1))
    taken = bank.snapshot
    before = layers(x, taken, torch.ones(4, 1))
    bank.remove(place)
    bank.add(adapter(2))
    bank.add(adapter(3))
    assert taken.size == 1
    assert torch.equal(layers(x, taken, torch.ones(4, 1)), before)


def test_a_snapshot_never_shows_half_an_adapter():
    bank, factors, done = AdapterBank(), [adapter(seed) for seed in range(4)], threading.Event()
    wrong, seen = [], 0

    def change(each):
        for _ in range(200):
            bank.remove(bank.add(each))

    changers = [threading.Thread(target=change, args=(each,)) for each in factors]

    def finish():
        for changer in changers:
            changer.join()
        done.set()

    for thread in (*changers, threading.Thread(target=finish)):
        thread.start()
    while not done.is_set() or seen == 0:
        snapshot = bank.snapshot
        gates, downs = ([place for place, _ in snapshot.branches(name)] for name in ("gate_proj", "down_proj"))
        seen += 1
        if gates != downs or len(set(gates)) != len(gates) or any(place >= snapshot.size for place in gates):
            wrong.append((gates, downs, snapshot.size))
    assert wrong == []
    assert bank.branches("gate_proj") == ()
    assert bank.size <= len(factors)
    assert bank.version == 2 * 200 * len(factors)


# The bank beside the whole decoder


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(8)
    return AceStepTransformer1DModel(
        num_hidden_layers=2, hidden_size=16, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, in_channels=24, audio_acoustic_hidden_dim=8, sliding_window=4, encoder_hidden_size=12,
    ).eval().requires_grad_(False)  # fmt: skip


@pytest.fixture(scope="module")
def whole_adapters(transformer):
    """Three adapters of every Linear of the decoder."""
    generator = torch.Generator().manual_seed(9)
    return [
        {
            name: (
                torch.randn(2, inside, generator=generator) * 0.2,
                torch.randn(outside, 2, generator=generator) * 0.2,
            )
            for name, (outside, inside) in linear_shapes(transformer).items()
        }
        for _ in range(3)
    ]


@torch.no_grad()
def heard(transformer, bank=None, strengths=None):
    """Velocities `[4, 15, 8]` of four different rows."""
    generator = torch.Generator().manual_seed(10)
    x, context = torch.randn(4, 15, 8, generator=generator), torch.randn(4, 15, 16, generator=generator)
    states, mask = torch.randn(4, 6, 12, generator=generator), torch.arange(6) < torch.tensor([[6], [4], [5], [1]])
    decoder = DitForward(transformer, bank)
    condition = decoder.encode(states, mask, strengths)
    return decoder(x, torch.tensor([1.0, 0.8, 0.4, 0.1]), context, condition, strengths)


def test_the_decoder_is_bit_for_bit_itself_at_strength_0_and_after_removal(transformer, whole_adapters):
    bank, plain = AdapterBank(), heard(transformer)
    place = bank.add(whole_adapters[0])
    assert torch.equal(heard(transformer, bank, torch.zeros(4, 1)), plain)
    assert torch.equal(heard(transformer, bank), plain)
    assert (heard(transformer, bank, torch.ones(4, 1)) - plain).abs().amax(dim=(1, 2)).min() > 0
    bank.remove(place)
    assert torch.equal(heard(transformer, bank, torch.ones(4, 1)), plain)


def test_the_decoder_sounds_as_with_the_composed_weights_of_each_row(transformer, whole_adapters):
    bank = AdapterBank()
    for each in whole_adapters:
        bank.add(each)
    strengths = rows([0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.0, 1.5], [-0.5, 0.7, 0.25])
    mixed, plain = heard(transformer, bank, strengths), heard(transformer)
    for row, strength in enumerate(strengths):
        merged = copy.deepcopy(transformer)
        for name in linear_shapes(transformer):
            linear = merged.get_submodule(name)
            linear.weight.copy_(bank.compose(name, linear.weight, strength))
        torch.testing.assert_close(mixed[row], heard(merged)[row], atol=1e-5, rtol=1e-5)
        assert torch.equal(mixed[row], plain[row]) == (row == 0)


def test_a_decoders_row_does_not_depend_on_other_rows_adapters_or_on_who_came_first(transformer, whole_adapters):
    first, second, third = whole_adapters
    alone = AdapterBank()
    alone.add(first)
    expected = heard(transformer, alone, torch.ones(4, 1))[2]
    crowded = AdapterBank()
    crowded.add(third)
    crowded.add(second)
    crowded.remove(0)
    crowded.add(first)  # in the third's column
    strengths = rows([0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.0, 0.0])
    assert torch.equal(heard(transformer, crowded, strengths)[2], expected)


# The library


def write(path, seed, metadata=None, alpha=None):
    tensors = {}
    for name, (down, up) in adapter(seed).items():
        tensors[f"base_model.model.{name}.lora_A.weight"], tensors[f"base_model.model.{name}.lora_B.weight"] = down, up
        if alpha is not None:
            tensors[f"base_model.model.{name}.alpha"] = torch.tensor(alpha)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.fixture
def bank():
    return AdapterBank()


@pytest.fixture
def library(bank):
    return LoraLibrary(bank, linear_shapes(Layers()))


def only_entry(library):
    [entry] = library.entries()
    return entry


def code_of(call):
    with pytest.raises(DemonError) as caught:
        call()
    return caught.value.code


def test_a_lora_is_registered_enabled_changed_disabled_and_removed(library, bank, tmp_path, layers, x):
    lora = library.register(write(tmp_path / "choir.safetensors", 1))
    assert lora == "choir"
    entry = only_entry(library)
    assert (entry.state, entry.rank, entry.place, entry.content_hash) == (LoraState.REGISTERED, 3, None, None)
    assert bank.version == 0

    library.enable(lora, 0.5)
    entry = only_entry(library)
    assert (entry.state, entry.strength, entry.place) == (LoraState.ENABLED, 0.5, 0)
    assert entry.content_hash == library.content_hash(lora)
    assert torch.equal(library.strengths(), torch.tensor([0.5]))
    reference = AdapterBank()
    reference.add(adapter(1))
    strengths = library.strengths().expand(4, -1)
    assert torch.equal(layers(x, bank, strengths), layers(x, reference, strengths))

    version = bank.version
    library.set_strength(lora, 1.5)
    library.enable(lora, 1.25)
    assert torch.equal(library.strengths(), torch.tensor([1.25]))
    assert bank.version == version  # a strength is only a number

    library.disable(lora)
    library.disable(lora)
    assert (only_entry(library).state, only_entry(library).strength) == (LoraState.REGISTERED, 1.25)
    assert bank.branches("gate_proj") == ()
    assert torch.equal(library.strengths(), torch.zeros(1))

    library.enable(lora)
    library.remove(lora)
    assert library.entries() == []
    assert bank.branches("gate_proj") == ()


def test_loras_stack_and_a_row_may_name_its_own_strengths(library, tmp_path):
    for seed, name in enumerate(("choir", "dub", "tape")):
        library.register(write(tmp_path / f"{name}.safetensors", seed))
    library.enable("dub", 0.25)
    library.enable("choir", 0.5)
    assert torch.equal(library.strengths(), torch.tensor([0.25, 0.5]))
    assert torch.equal(library.strengths({"dub": 2.0}), torch.tensor([2.0, 0.5]))
    assert torch.equal(library.strengths(), torch.tensor([0.25, 0.5]))
    assert code_of(lambda: library.strengths({"tape": 1.0})) == "E_LORA_STATE"


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), float("-inf")])
def test_strengths_are_finite_and_otherwise_free(library, tmp_path, strength):
    library.register(write(tmp_path / "choir.safetensors", 1))
    assert code_of(lambda: library.enable("choir", strength)) == "E_LORA_STRENGTH"
    library.enable("choir", -3.0)
    assert code_of(lambda: library.set_strength("choir", strength)) == "E_LORA_STRENGTH"
    assert code_of(lambda: library.strengths({"choir": strength})) == "E_LORA_STRENGTH"
    assert torch.equal(library.strengths(), torch.tensor([-3.0]))


def test_a_lora_that_is_unknown_or_not_enabled_is_an_error(library, tmp_path):
    library.register(write(tmp_path / "choir.safetensors", 1))
    assert code_of(lambda: library.set_strength("choir", 1.0)) == "E_LORA_STATE"
    for call in (library.enable, library.disable, library.remove, library.content_hash):
        assert code_of(lambda call=call: call("organ")) == "E_NO_LORA"


def test_ids_are_names_of_files_and_of_folders(library, tmp_path):
    assert library.register(write(tmp_path / "dub.v2.safetensors", 1)) == "dub.v2"
    assert library.register(write(tmp_path / "choir" / "adapter_model.safetensors", 2).parent) == "choir"
    assert library.register(write(tmp_path / "tape" / "pytorch_lora_weights.safetensors", 3)) == "tape"


def test_a_known_file_and_a_copy_of_it_keep_their_id_and_other_contents_get_another(library, tmp_path):
    first = write(tmp_path / "a" / "final.safetensors", 1)
    assert library.register(first) == "final"
    assert library.register(first.parent / ".." / "a" / "final.safetensors") == "final"
    assert library.register(write(tmp_path / "b" / "final.safetensors", 1)) == "final"
    third = library.register(write(tmp_path / "c" / "final.safetensors", 2))
    assert third == f"final-{library.content_hash(third)[:8]}"
    assert library.register(write(tmp_path / "d" / "final.safetensors", 2)) == third
    assert library.register(tmp_path / "c" / "final.safetensors") == third
    assert [entry.id for entry in library.entries()] == ["final", third]


def test_a_folder_gives_its_loras_and_the_reasons_for_what_it_leaves_out(library, tmp_path):
    write(tmp_path / "b.safetensors", 1)
    write(tmp_path / "a" / "adapter_model.safetensors", 2)
    write(tmp_path / "._b.safetensors", 3)
    (tmp_path / "c.safetensors").write_bytes(b"no")
    save_file({"weight": torch.zeros(1)}, tmp_path / "d.safetensors")
    (tmp_path / "notes.txt").write_text("not a LoRA")
    ids, errors = library.register_directory(tmp_path)
    assert ids == ["a", "b"]
    assert [error.code for error in errors] == ["E_LORA_FILE", "E_LORA_KIND"]
    assert library.register_directory(tmp_path, recursive=False)[0] == ["b"]
    assert code_of(lambda: library.register_directory(tmp_path / "missing")) == "E_LORA_FILE"


def test_a_lora_for_another_model_is_not_even_registered(tmp_path):
    library = LoraLibrary(AdapterBank(), {"gate_proj": (HIDDEN, WIDTH)})
    assert code_of(lambda: library.register(write(tmp_path / "a.safetensors", 1))) == "E_LORA_NAMES"
    assert library.entries() == []


def test_sidecars_describe_a_lora(library, tmp_path):
    write(tmp_path / "a.safetensors", 1, {"title": "A", "author": "me"})
    (tmp_path / "a.metadata.json").write_text('{"title": "Choir", "steps": 8}')
    (tmp_path / "a.trigger.txt").write_text("not read beside the other")
    write(tmp_path / "b.safetensors", 2)
    (tmp_path / "b.trigger.txt").write_text("dub siren\n")
    library.register_directory(tmp_path)
    a, b = library.entries()
    assert a.metadata == {"title": "Choir", "author": "me", "steps": 8}
    assert b.metadata == {"trigger_words": "dub siren"}
    write(tmp_path / "c.safetensors", 3)
    (tmp_path / "c.metadata.json").write_text("[]")
    assert code_of(lambda: library.register(tmp_path / "c.safetensors")) == "E_LORA_FILE"


def test_a_file_that_went_bad_after_it_was_registered_enables_nothing(library, bank, tmp_path):
    path = write(tmp_path / "choir.safetensors", 1)
    library.register(path)
    path.write_bytes(b"")
    assert code_of(lambda: library.enable("choir")) == "E_LORA_FILE"
    assert (only_entry(library).state, bank.version) == (LoraState.REGISTERED, 0)


class HeldReading:
    """Reads as the library does, but waits to be let go once the weights are read."""

    def __init__(self, monkeypatch):
        self.has_begun, self.go_on = threading.Semaphore(0), threading.Event()
        self._read = lora_library.read_lora
        monkeypatch.setattr(lora_library, "read_lora", self._read_and_wait)

    def _read_and_wait(self, *arguments):
        lora = self._read(*arguments)
        self.has_begun.release()
        assert self.go_on.wait(30)
        return lora


def start(call):
    """Run `call` on a thread; its DemonErrors go into the list that is returned with it."""
    errors = []

    def body():
        try:
            call()
        except DemonError as error:
            errors.append(error.code)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, errors


def test_nobody_waits_for_a_file_that_another_thread_reads(library, tmp_path, monkeypatch):
    for seed, name in enumerate(("choir", "dub", "tape")):
        library.register(write(tmp_path / f"{name}.safetensors", seed))
    library.enable("dub", 0.5)
    held = HeldReading(monkeypatch)
    thread, errors = start(lambda: library.enable("choir", 0.75))
    assert held.has_begun.acquire(timeout=30)
    library.set_strength("dub", 1.5)
    assert torch.equal(library.strengths(), torch.tensor([1.5]))
    assert [entry.state.value for entry in library.entries()] == ["registered", "enabled", "registered"]
    library.disable("dub")
    held.go_on.set()
    thread.join(30)
    assert errors == []
    assert torch.equal(library.strengths(), torch.tensor([0.75]))


def test_a_lora_that_is_removed_while_it_is_read_leaves_nothing_behind(library, bank, tmp_path, monkeypatch):
    library.register(write(tmp_path / "choir.safetensors", 1))
    held = HeldReading(monkeypatch)
    thread, errors = start(lambda: library.enable("choir"))
    assert held.has_begun.acquire(timeout=30)
    library.remove("choir")
    held.go_on.set()
    thread.join(30)
    assert errors == ["E_NO_LORA"]
    assert bank.branches("gate_proj") == ()


def test_a_lora_that_two_threads_enable_is_in_the_bank_once(library, bank, tmp_path, monkeypatch):
    library.register(write(tmp_path / "choir.safetensors", 1))
    held = HeldReading(monkeypatch)
    started = [start(lambda: library.enable("choir", 0.5)) for _ in range(2)]
    for _ in started:
        assert held.has_begun.acquire(timeout=30)
    held.go_on.set()
    for thread, errors in started:
        thread.join(30)
        assert errors == []
    assert len(bank.branches("gate_proj")) == 1
    assert float(library.strengths().sum()) == 0.5
