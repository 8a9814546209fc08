# SPDX-License-Identifier: Apache-2.0
"""Our forward against diffusers' own, at the same unpadded inputs; what its parts and its backends bring."""

from __future__ import annotations

import os
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from torch import Tensor

from engine_server.diffusion.decoder import Decoder, Encoded
from engine_server.diffusion.ring import DEFAULT_BATCH
from engine_server.model.backends import make_decoder
from shared_protocol.errors import DemonError
from tests.bench.measure import Action, Row, Target, compared, interleaved, timed
from tests.bench.models import EMBEDDED, LARGER, Effort, Inputs, Subject, load

ROWS = DEFAULT_BATCH
"""As in a ring's forward."""
ROUNDS = {EMBEDDED: 9, LARGER: 5}


class EncodingEachTime:
    """A decoder that remembers nothing of a condition: every forward computes keys and values of cross-attention anew."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None = None) -> Encoded:
        """See `Decoder`."""
        return states, mask

    def __call__(
        self, x: Tensor, t: Tensor, context: Tensor, condition: Encoded, adapters: Tensor | None = None
    ) -> Tensor:
        """See `Decoder`."""
        states, mask = condition
        return self._decoder(x, t, context, self._decoder.encode(states, mask, adapters), adapters)


@torch.inference_mode()
def rows(effort: Effort) -> Iterator[Row]:
    """Rows of every model."""
    for name in effort.models:
        subject = load(name)
        print(subject)
        yield from _against_diffusers(subject, effort)
        if not effort.quick:
            yield from _compiled(subject, effort)


def ours(decoder: Decoder, inputs: Inputs) -> Action:
    """Our forward of inputs whose condition is encoded already."""
    condition = decoder.encode(inputs.states, inputs.mask)
    return lambda: decoder(inputs.x, inputs.t, inputs.context, condition)


def diffusers(subject: Subject, inputs: Inputs) -> Action:
    """diffusers' own forward."""
    return lambda: subject.transformer(
        hidden_states=inputs.x,
        timestep=inputs.t,
        timestep_r=inputs.t,
        encoder_hidden_states=inputs.states,
        context_latents=inputs.context,
        return_dict=False,
    )[0]


def relative_error(result: object, exact: object) -> float:
    """L2 norm of the difference over that of the exact one."""
    assert isinstance(result, Tensor)
    assert isinstance(exact, Tensor)
    return float((result - exact).norm() / exact.norm())


def _against_diffusers(subject: Subject, effort: Effort) -> Iterator[Row]:
    inputs = subject.inputs(ROWS, effort.frames)
    int8 = make_decoder(subject.transformer, backend="eager", quantization="int8")
    actions = {
        "diffusers": diffusers(subject, inputs),
        "float32": ours(subject.decoder, inputs),
        "int8": ours(int8, inputs),
        "encoding": ours(EncodingEachTime(subject.decoder), inputs),
    }
    error = {name: relative_error(action(), actions["diffusers"]()) for name, action in actions.items()}
    took = interleaved(actions, effort.rounds(ROUNDS[subject.name]))
    what = f"{subject.name}: forward of {ROWS} x {effort.frames} frames"
    for kind, target in (("float32", 1.15), ("int8", 1.6)):
        yield compared(
            f"{what}, {kind}",
            took[kind],
            "diffusers' own, float32",
            took["diffusers"],
            target=Target("ratio", target),
            error=error[kind],
        )
    yield compared(
        f"{what}, keys and values of the condition remembered",
        took["float32"],
        "computed at every forward",
        took["encoding"],
        error=relative_error(actions["float32"](), actions["encoding"]()),
    )


def _compiled(subject: Subject, effort: Effort) -> Iterator[Row]:
    inputs = subject.inputs(ROWS, effort.frames)
    eager, compiled = (ours(make_decoder(subject.transformer, backend=name), inputs) for name in ("eager", "compile"))
    try:
        # What an earlier run has left on the disk would hide what compiling costs.
        with TemporaryDirectory() as empty, patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": empty}):
            compile_s = timed(compiled)
    except DemonError as error:
        print(f"{subject.name}: {error.message}")
        return
    error_of_compiled = relative_error(compiled(), eager())
    took = interleaved({"compiled": compiled, "eager": eager}, effort.rounds(ROUNDS[subject.name]))
    yield compared(
        f"{subject.name}: forward of {ROWS} x {effort.frames} frames, compiled",
        took["compiled"],
        "eager",
        took["eager"],
        error=error_of_compiled,
        note=f"compiled in {compile_s:.0f} s",
    )
