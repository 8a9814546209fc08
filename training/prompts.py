# SPDX-License-Identifier: Apache-2.0
"""The captions the transformer is trained on, and the tokenizer that reads them."""

from __future__ import annotations

import random

from diffusers.pipelines.ace_step.pipeline_ace_step import TASK_INSTRUCTIONS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.instruments import FAMILIES, Family

END = "<|endoftext|>"
VOCABULARY = 768
AS_IS = ("as is", "the original", "same instruments as the source", "unchanged", "keep the sound")
TEMPLATES = (
    "{}",
    "{}",
    "{}",
    "{} cover",
    "solo {}",
    "music played by {}",
    "played on {}",
    "a {} piece",
    "style: {}",
    "instrumental, {}",
    "{}, instrumental",
    "{} version",
    "turn it into {}",
    "make it {}",
    "{} arrangement",
    "{} in a small room",
    "gentle {}",
    "lively {}",
    "a melody on {} with accompaniment",
    "{} music, studio recording",
)
# Pieces of the upstream template that occur in every prompt: one token each, so that a caption has room.
TEMPLATE_TOKENS = (
    "# Instruction\n", "\n\n# Caption\n", "\n\n# Metas\n", "- bpm: ", "\n- timesignature: ", "\n- keyscale: ",
    "\n- duration: ", " seconds\n", "N/A", "# Languages\n", "\n\n# Lyric\n", "[Instrumental]",
)  # fmt: skip
# Words that musicians use and our captions do not: they help the tokenizer only.
EXTRA_WORDS = (
    "dark bright warm cold slow fast ambient techno house drum and bass orchestral cinematic epic jazz blues funk "
    "soul rock metal punk folk country classical baroque romantic electronic lofi hip hop trap dub reggae disco "
    "808 909 drums kick snare hats percussion bass guitar strings brass woodwinds vocals synth arpeggio chords "
    "melody reverb distorted clean soft loud dreamy energetic melancholic happy sad minor major tempo bpm groove"
)


def caption_for(family: Family, rng: random.Random) -> str:
    """One of the family's words in one of the templates."""
    return rng.choice(TEMPLATES).format(rng.choice(family.words))


def as_is_caption(rng: random.Random) -> str:
    """A caption for 'change nothing'."""
    return rng.choice(AS_IS)


def all_captions() -> list[str]:
    """Every caption that training can draw."""
    worded = [template.format(word) for family in FAMILIES for word in family.words for template in TEMPLATES]
    return worded + list(AS_IS)


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
    tokenizer.train_from_iterator(all_captions() + extra, trainer)
    pieces = TEMPLATE_TOKENS + tuple(sorted(TASK_INSTRUCTIONS.values()))
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, padding_side="right", model_max_length=4096
    )
