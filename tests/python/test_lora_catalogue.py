# SPDX-License-Identifier: Apache-2.0
"""LoRAs by content hash: only what lies in the owner's folders, and never a path from the wire."""

from __future__ import annotations

import pytest
import torch
from track_rig import write_lora

from engine_server.tracks.lora_catalogue import LoraCatalogue
from shared_protocol.errors import DemonError


@pytest.fixture
def folder(tiny, tmp_path):
    write_lora(tmp_path / "choir.safetensors", tiny, seed=1)
    write_lora(tmp_path / "brass.safetensors", tiny, seed=2)
    (tmp_path / "broken.safetensors").write_bytes(b"not a LoRA")
    return tmp_path


def test_files_are_named_by_their_content(tiny, folder):
    catalogue = LoraCatalogue(tiny, [folder])
    assert set(catalogue.names().values()) == {"choir", "brass"}
    assert catalogue.find("choir") == catalogue.find(catalogue.find("choir")[:10])
    assert len(catalogue.find("brass")) == 64


def test_strengths_of_places_that_name_one_lora_add_up(tiny, folder):
    catalogue = LoraCatalogue(tiny, [folder])
    choir, brass = catalogue.find("choir"), catalogue.find("brass")
    for digest in (choir, brass, choir):
        catalogue.enable(digest)
    one, twice = catalogue.strengths([(choir, 0.5)]), catalogue.strengths([(choir, 0.25), (choir, 0.25), (brass, 0.0)])
    assert torch.equal(one, twice)
    assert sorted(one.tolist())[-1] == 0.5
    assert catalogue.strengths([(choir, 0.0), (brass, 0.0)]) is None
    assert catalogue.strengths([]) is None


def test_unknown_content_is_refused_with_the_folder_to_put_it_in(tiny, folder):
    catalogue = LoraCatalogue(tiny, [folder])
    for name in ("00" * 32, str(folder / "choir.safetensors"), "../choir"):
        with pytest.raises(DemonError, match="E_LORA") as caught:
            catalogue.enable(name)
        assert caught.value.message.startswith(name)
        assert str(folder) in caught.value.message


def test_a_file_put_there_later_is_found(tiny, folder):
    catalogue = LoraCatalogue(tiny, [folder])
    late = write_lora(folder / "late.safetensors", tiny, seed=9)
    digest = LoraCatalogue(tiny, [folder]).find("late")
    assert digest not in catalogue.names()
    catalogue.enable(digest)
    assert catalogue.names()[digest] == "late"
    assert late.exists()


def test_a_file_that_was_replaced_is_not_taken_for_the_old_one(tiny, folder):
    catalogue = LoraCatalogue(tiny, [folder])
    digest = catalogue.find("choir")
    write_lora(folder / "choir.safetensors", tiny, seed=5)
    with pytest.raises(DemonError, match="E_LORA"):
        catalogue.enable(digest)
    catalogue.refresh()
    catalogue.enable(catalogue.find("choir"))


def test_an_ambiguous_name_is_refused(tiny, folder):
    catalogue = LoraCatalogue(tiny, [folder])
    for name in ("", "violin"):
        with pytest.raises(DemonError, match="E_LORA"):
            catalogue.find(name)
