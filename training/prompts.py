# SPDX-License-Identifier: Apache-2.0
"""The captions and metas the transformer is trained on, and the tokenizer that reads them."""

from __future__ import annotations

import random
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from engine_server.model.prompts import METERS, TASK_INSTRUCTIONS, Metas
from training.compose import MAJOR_TONICS, MINOR_TONICS
from training.effects import ROOMS, TONES
from training.instruments import FAMILIES, MIXED, MIXED_WORDS
from training.renders import PieceInfo, Take

END = "<|endoftext|>"
VOCABULARY = 1024
FAMILY_WORD_SHARE = 0.5  # of the captions: the family's own name, where it is one of the take's words
META_SHARE = 0.5  # each meta is told this often
COLOUR_SHARE = 0.85  # of the pronounced colours that a caption mentions
AS_IS = ("as is", "the original", "same instruments as the source", "unchanged", "keep the sound")
CAPITAL_SHARE = 0.1  # of the captions begin with a capital letter
TEMPLATES = (
    "{}",
    "{}",
    "{}",
    "{} cover",
    "solo {}",
    "music played by {}",
    "played on {}",
    "a piece for {}",
    "style: {}",
    "instrumental, {}",
    "{}, instrumental",
    "{} version",
    "turn it into {}",
    "make it {}",
    "{} arrangement",
    "a melody on {} with accompaniment",
    "{} music",
)
# What a listener may call each colour: words before the instrument, and words after it.
COLOURS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "dark": (("dark", "warm", "muffled", "mellow"), ("dark", "warm", "muffled", "dark sound")),
    "bright": (("bright", "crisp", "brilliant"), ("bright", "crisp", "bright sound")),
    "hall": (("spacious", "reverberant"), ("in a hall", "spacious hall", "spacious", "reverberant", "in a cathedral")),
    "dry": (("dry",), ("dry", "dry studio", "close and dry")),
}
# Pieces of the upstream template that occur in every prompt: one token each, so that a caption has room.
TEMPLATE_TOKENS = (
    "# Instruction\n", "\n\n# Caption\n", "\n\n# Metas\n", "- bpm: ", "\n- timesignature: ", "\n- keyscale: ",
    "\n- duration: ", " seconds\n", "N/A", "# Languages\n", "\n\n# Lyric\n", "[Instrumental]",
)  # fmt: skip
# Words that musicians use and our captions do not: they help the tokenizer only.
EXTRA_WORDS = (
    "cold slow fast ambient techno house drum and bass orchestral cinematic epic jazz blues funk "
    "soul rock metal punk folk country classical baroque romantic electronic lofi hip hop trap dub reggae disco "
    "808 909 drums kick snare hats percussion bass guitar strings brass woodwinds vocals synth arpeggio chords "
    "melody reverb distorted clean soft loud gentle lively dreamy energetic melancholic happy sad tempo bpm groove"
)
TOKENIZER_DRAWS = 6000  # captions that the tokenizer learns from


def caption_for(take: Take, rng: random.Random) -> str:
    """Words of the take in a template, with its colours before, after, or around them."""
    by_family = take.family in take.words and rng.random() < FAMILY_WORD_SHARE
    subject = take.family if by_family else rng.choice(take.words)
    colours = [colour for colour in take.colours if rng.random() < COLOUR_SHARE]
    rng.shuffle(colours)
    before: list[str] = []
    after: list[str] = []
    for colour in colours:
        is_before = rng.random() < 0.5
        (before if is_before else after).append(rng.choice(COLOURS[colour][0 if is_before else 1]))
    subject = " ".join([rng.choice((" and ", ", ", " ")).join(before), subject]) if before else subject
    caption = rng.choice(TEMPLATES).format(subject)
    joint = " " if len(after) == 1 and after[0].startswith("in a ") and rng.random() < 0.7 else ", "
    caption = joint.join([caption, *after])
    return caption[0].upper() + caption[1:] if rng.random() < CAPITAL_SHARE else caption


def as_is_caption(rng: random.Random) -> str:
    """A caption for 'change nothing'."""
    return rng.choice(AS_IS)


def metas_for(piece: PieceInfo, rng: random.Random) -> dict[str, Any]:
    """Arguments for `Metas`: each of `bpm`, `key` and `meter` told or left open by chance."""
    known = {"bpm": piece.bpm, "key": piece.key, "meter": piece.beats}
    return {name: value for name, value in known.items() if rng.random() < META_SHARE}


def sample_captions(seed: int, count: int) -> list[str]:
    """Captions as training draws them, of every variant in turn with every set of colours."""
    rng = random.Random(f"demon-captions-{seed}")
    named = [(family.name, variant.words) for family in FAMILIES for variant in family.variants]
    colour_sets = [(), (), *((colour,) for colour in COLOURS), *((tone, room) for tone in TONES for room in ROOMS)]
    takes = [
        Take(family, words, colours, "", (0, 0, 0, 0))
        for family, words in [*named, (MIXED, MIXED_WORDS)]
        for colours in colour_sets
    ]
    return [caption_for(takes[index % len(takes)], rng) for index in range(count)]


def _meta_texts() -> list[str]:
    """Every key, and bpm and meter as numbers, in the metas section's own form."""
    keys = [f"{tonic} major" for tonic in MAJOR_TONICS] + [f"{tonic} minor" for tonic in MINOR_TONICS]
    texts = [Metas(bpm=bpm, meter=METERS[bpm % len(METERS)]).text() for bpm in range(60, 180)]
    return texts + [Metas(key=key).text() for key in keys]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE over our captions; any other text still encodes, byte by byte at worst."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(TEMPLATE_TOKENS) - len(TASK_INSTRUCTIONS),
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    extra = [word for word in EXTRA_WORDS.split() for _ in range(2)] + [EXTRA_WORDS] * 2
    captions = sample_captions(0, TOKENIZER_DRAWS) + list(AS_IS) * 20
    tokenizer.train_from_iterator(captions + _meta_texts() + extra, trainer)
    pieces = TEMPLATE_TOKENS + tuple(sorted(TASK_INSTRUCTIONS.values()))
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, padding_side="right", model_max_length=4096
    )
