# SPDX-License-Identifier: Apache-2.0
"""Reference audio: pieces, order, hash, and what a configuration that names other ones leaves behind."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest
import torch
from track_rig import music, pieces

from engine_server.model.windows import encode_full
from engine_server.tracks.references import References, reference_hash
from shared_protocol.errors import DemonError
from shared_protocol.messages import MAX_REFERENCE_SAMPLES, Reference

RATE = 48_000
CLIP = music(30)
NAME = reference_hash(CLIP, RATE)


def code_of(action):
    with pytest.raises(DemonError) as caught:
        action()
    return caught.value.code


def upload(references, audio=CLIP, rate=RATE, size=10_000):
    return [references.add(header, part) for header, part in pieces(audio, rate, size)]


def encode(references):
    while references.is_encoding():
        references.encode_some()


@pytest.fixture
def references(tiny):
    one = References(tiny)
    one.name(NAME, "")
    return one


def test_the_hash_is_that_of_the_rate_and_the_planar_samples():
    expected = hashlib.sha256(b"48000\n" + CLIP.astype("<f4").tobytes()).hexdigest()
    assert expected == NAME
    assert reference_hash(CLIP, 44_100) != NAME


def test_pieces_make_a_whole_that_is_encoded_in_steps(references, tiny):
    assert [error.code for error in references.missing()] == ["E_REFERENCE"]
    assert references.missing()[0].message.startswith(NAME + ":")
    assert upload(references) == [False] * 5 + [True]
    assert not references.missing()
    assert not references.is_ready()
    encode(references)
    assert references.is_ready()
    assert references.timbre().shape == (750, tiny.codec.latent_channels)
    assert references.structure() is None
    assert references.add(*next(iter(pieces(CLIP, RATE))))  # a repeat of what is there


@pytest.mark.parametrize("rate", [48_000, 44_100])
def test_structure_is_that_of_the_whole(tiny, rate):
    audio = music(300, rate=rate)[:, :-17]
    name = reference_hash(audio, rate)
    references = References(tiny)
    references.name("", name)
    upload(references, audio, rate, 65_536)
    encode(references)
    structure = references.structure()
    assert len(structure) == 300
    if rate == RATE:
        whole = tiny.structure.hints(encode_full(tiny.codec, torch.from_numpy(audio)))
        torch.testing.assert_close(structure, whole, atol=1e-5, rtol=1e-5)


def test_one_clip_may_be_both(tiny):
    references = References(tiny)
    references.name(NAME, NAME)
    assert len(references.missing()) == 1
    upload(references)
    encode(references)
    assert references.timbre() is not None
    assert len(references.structure()) == 30


def test_bad_pieces_have_names(references, tiny):
    header, part = next(iter(pieces(CLIP, RATE, 10_000)))
    assert code_of(lambda: references.add(msgspec.structs.replace(header, first=10_000), part)) == "E_REFERENCE"
    references.add(header, part)
    assert code_of(lambda: references.add(msgspec.structs.replace(header, first=20_000), part)) == "E_REFERENCE"
    assert code_of(lambda: references.add(msgspec.structs.replace(header, first=10_000, rate=8000), part)) == "E_FIELD"
    assert code_of(lambda: references.add(msgspec.structs.replace(header, rate=44_101), part)) == "E_SAMPLE_RATE"
    stranger = msgspec.structs.replace(header, hash="00" * 32)
    assert code_of(lambda: references.add(stranger, part)) == "E_FIELD"
    assert upload(references)[-1]  # beginning again is allowed at any time


def test_samples_that_are_not_those_of_the_hash_are_refused_and_forgotten(references):
    *others, (header, part) = pieces(CLIP, RATE, 10_000)
    for piece in others:
        references.add(*piece)
    assert code_of(lambda: references.add(header, part + np.float32(0.25))) == "E_FIELD"
    assert references.missing()
    assert upload(references)[-1]


def test_a_reference_has_a_longest_length():
    with pytest.raises(ValueError, match="beyond the total"):
        Reference("00" * 32, RATE, MAX_REFERENCE_SAMPLES, MAX_REFERENCE_SAMPLES, 1)


def test_what_is_not_named_any_more_is_forgotten(references):
    upload(references)
    encode(references)
    references.name("", "")
    assert references.is_ready()
    assert references.timbre() is None
    references.name(NAME, "")
    assert references.missing()
    upload(references)
    references.name("", NAME)  # named for another use while it is encoded: its samples are still here
    encode(references)
    assert references.is_ready()
    references.name(NAME, NAME)  # and now they are not
    assert references.missing()
    upload(references)
    encode(references)
    assert references.is_ready()


def test_encoding_does_not_depend_on_what_else_is_encoded(tiny):
    other = music(40, seed=3)
    alone, both = References(tiny), References(tiny)
    alone.name(NAME, "")
    both.name(NAME, reference_hash(other, RATE))
    upload(alone)
    upload(both, other)
    upload(both)
    encode(alone)
    encode(both)
    assert torch.equal(alone.timbre(), both.timbre())
