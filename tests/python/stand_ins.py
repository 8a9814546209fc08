# SPDX-License-Identifier: Apache-2.0
"""Small deterministic decoders for tests of the sampler, and requests that use every feature.

A stand-in is a real `Decoder`: float32, every row a function of that row only, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.noise import RequestNoise
from engine_server.diffusion.request import ConditionEntry, LatentMask, SlotRequest
from engine_server.diffusion.ring import Completion, Ring
from engine_server.diffusion.rows import RingShape

T, C, L, E = 12, 8, 5, 6
BINARY = np.array([1, 0, 0] * (T // 3), dtype=np.float32)
"""A curve that holds two frames of three."""
STRONG_DCW = DcwSettings(scaler=0.4, high_scaler=0.3)
CORRECTIONS = [None, STRONG_DCW, DcwSettings(mode="pix", scaler=0.3), DcwSettings(wavelet="db4", mag_phase=0.5)]
"""A correction of each kind, and none."""


class Affine:
    """`v = a x + b context + c t + prompt`, plus what adapters add to the prompt and to the result."""

    def __init__(self, a: float = 0.4, b: float = 0.2, c: float = 0.3) -> None:
        self.a, self.b, self.c = a, b, c
        self.calls = 0
        self.rows = 0
        """Of all calls, padding included."""
        self.encoded = 0

    def encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None = None) -> tuple[Tensor, ...]:
        assert states.dtype == torch.float32
        assert mask.dtype == torch.bool
        self.encoded += len(states)
        words = (states * mask[..., None]).sum((1, 2)) / 10
        if adapters is not None:
            for column in adapters.unbind(1):
                words = words + 0.5 * column
        return (words,)

    def __call__(
        self, x: Tensor, t: Tensor, context: Tensor, condition: tuple[Tensor, ...], adapters: Tensor | None = None
    ) -> Tensor:
        assert x.dtype == t.dtype == context.dtype == torch.float32
        self.calls += 1
        self.rows += len(x)
        (words,) = condition
        v = self.shape(x) + self.b * context[..., : x.shape[2]] + (self.c * t + words)[:, None, None]
        if adapters is not None:
            for k, column in enumerate(adapters.unbind(1)):
                v = v + (0.1 * (k + 1) * column)[:, None, None] * x
        return v

    def shape(self, x: Tensor) -> Tensor:
        """What the state alone contributes."""
        return self.a * x


class Nonlinear(Affine):
    """Neither linear nor frame by frame: neighbouring frames and channels meet."""

    def shape(self, x: Tensor) -> Tensor:
        """See `Affine`."""
        return torch.tanh(x + 0.3 * x.roll(1, dims=1) - 0.2 * x.roll(1, dims=2))


class Flaky(Nonlinear):
    """Fails in the calls with these numbers."""

    def __init__(self, failing: Sequence[int]) -> None:
        super().__init__()
        self._failing = set(failing)

    def __call__(self, *args: object) -> Tensor:
        if self.calls in self._failing:
            self.calls += 1
            raise RuntimeError("out of memory")
        return super().__call__(*args)


class OneBuffer(Nonlinear):
    """Hands out the same memory every time, as a captured graph does."""

    def __init__(self) -> None:
        super().__init__()
        self._buffer = torch.zeros(0)

    def __call__(self, *args: object) -> Tensor:
        v = super().__call__(*args)
        if self._buffer.shape != v.shape:
            self._buffer = torch.empty_like(v)
        return self._buffer.copy_(v)


class ChannelsFirst(Nonlinear):
    """Hands out velocities that lie channels first in memory, as a convolution leaves them."""

    def __call__(self, *args: object) -> Tensor:
        return super().__call__(*args).transpose(1, 2).contiguous().transpose(1, 2)


def ring_shape(depth: int = 4, frames: int = T) -> RingShape:
    """A ring for the requests of this module."""
    return RingShape(depth, frames, C, L, E)


def tensor(seed: int, *shape: int) -> Tensor:
    """Standard normal values that belong to a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompt(seed: int, words: int = L, **given: object) -> ConditionEntry:
    """A condition with so many tokens, padded."""
    return ConditionEntry(tensor(seed, L, E), torch.arange(L) < words, **given)


def request(number: int = 0, frames: int = T, **given: object) -> SlotRequest:
    """A plain request with a source and a target; equal numbers give equal requests."""
    base = {
        "request_id": number,
        "noise": RequestNoise(100 + number),
        "context": tensor(200 + number, frames, 2 * C),
        "conditions": [prompt(300 + number)],
        "source": tensor(400 + number, frames, C),
        "target": tensor(500 + number, frames, C),
        "steps": 4,
    }
    return SlotRequest(**(base | given))


def run(
    requests: Sequence[SlotRequest],
    depth: int = 4,
    *,
    decoder: Affine | None = None,
    admit_every: int = 1,
    prepare: Callable[[Ring], None] | None = None,
    frames: int = T,
) -> dict[object, Completion]:
    """Completions by request id, the requests entering a ring as slots become free; `prepare` sees the ring first."""
    ring = Ring(decoder or Nonlinear(), ring_shape(depth, frames))
    if prepare is not None:
        prepare(ring)
    waiting, finished, tick = list(requests), {}, 0
    while waiting or ring.busy:
        if waiting and ring.has_free_slot() and tick % admit_every == 0:
            ring.admit(waiting.pop(0))
        finished |= {done.request_id: done for done in ring.tick()}
        tick += 1
    return finished


def alone(one: SlotRequest, **options: object) -> Tensor:
    """The result of a request that has a ring of depth 1 for itself."""
    return run([one], **({"depth": 1} | options))[one.request_id].latent


def share(**values: object) -> Callable[[Ring], None]:
    """For `run`: set shared controls."""

    def setter(ring: Ring) -> None:
        for name, value in values.items():
            ring.controls.set(name, value, ring.shape)

    return setter


# What follows draws requests at random.

_SEEDS = st.integers(0, 40)


def curves(low: float, high: float, frames: int = T) -> st.SearchStrategy:
    """A number, a constant, a ramp, or switching values, within a range; the ends included."""
    level = st.sampled_from([low, high, (low + high) / 2, low + 0.3 * (high - low)])
    ramp = st.builds(lambda a, b: np.linspace(a, b, frames, dtype=np.float32), level, level)
    switch = st.builds(
        lambda a, b, bits: np.where(bits, a, b).astype(np.float32),
        level,
        level,
        st.lists(st.booleans(), min_size=frames, max_size=frames),
    )
    return st.one_of(level, ramp, switch)


def dcw_settings(frames: int = T) -> st.SearchStrategy:
    """Any wavelet correction, off and absent included."""
    fader = st.sampled_from([0.0, 0.0, 0.5, 1.0])
    return st.one_of(
        st.none(),
        st.builds(
            DcwSettings,
            enabled=st.sampled_from([True, True, False]),
            mode=st.sampled_from(["low", "high", "double", "pix"]),
            scaler=curves(-0.1, 0.4, frames),
            high_scaler=curves(0.0, 0.2, frames),
            wavelet=st.sampled_from(["haar", "haar", "db4", "sym8"]),
            mult_blend=fader,
            mag_phase=fader,
            soft_thresh=st.sampled_from([0.0, 0.1]),
        ),
    )


def conditions(frames: int = T, *, at_least: int = 1) -> st.SearchStrategy:
    """A few prompts of different lengths, with weights and step ranges."""
    entry = st.builds(
        lambda seed, words, weight, span: prompt(600 + seed, words, weight=weight, step_range=span),
        _SEEDS,
        st.integers(1, L),
        st.one_of(st.none(), curves(0.0, 2.0, frames)),
        st.sampled_from([None, None, (0.0, 0.5), (0.5, 1.0), (0.25, 0.75), (0.3, 0.3)]),
    )
    return st.lists(entry, min_size=at_least, max_size=3)


def masks(frames: int = T) -> st.SearchStrategy:
    """Inpainting of all kinds."""
    return st.builds(
        LatentMask,
        mask=curves(0.0, 1.0, frames),
        original=_SEEDS.map(lambda seed: tensor(700 + seed, frames, C)),
        strength=st.sampled_from([None, lambda step, steps: 1.0 - step / steps, lambda step, steps: 0.0]),
        noise=st.one_of(st.none(), _SEEDS.map(lambda seed: tensor(800 + seed, frames, C))),
    )


@st.composite
def any_request(draw: Callable, number: int = 0, frames: int = T) -> SlotRequest:
    """A request with any mix of all features."""

    def maybe(strategy: st.SearchStrategy, absent: object) -> object:
        return draw(strategy) if draw(st.booleans()) else absent

    has_source = draw(st.integers(0, 3)) > 0
    has_target = draw(st.booleans())
    mask = maybe(masks(frames), None)
    given: dict[str, object] = {
        "noise": RequestNoise(draw(_SEEDS)),
        "context": tensor(draw(_SEEDS), frames, 2 * C),
        "conditions": draw(conditions(frames)),
        "negatives": draw(conditions(frames, at_least=1)),
        "mask": mask,
        "steps": draw(st.integers(1, 6)),
        "shift": draw(st.sampled_from([1.0, 3.0, 0.5])),
        "solver": draw(st.sampled_from(["ode", "sde"])),
        "velocity_scale": maybe(curves(0.2, 1.5, frames), 1.0),
        "ode_noise": maybe(curves(0.0, 0.6, frames), 0.0),
        "guidance": maybe(curves(0.0, 4.0, frames), None),
        "guidance_mode": draw(st.sampled_from(["off", "full", "initialize", "self"])),
        "apg_momentum": maybe(curves(-0.9, 0.5, frames), -0.75),
        "apg_norm": draw(st.sampled_from(["time", "time_rms"])),
        "cfg_rescale": maybe(curves(0.0, 1.0, frames), 0.0),
        "channel_gain": maybe(_SEEDS.map(lambda seed: 1 + 0.3 * tensor(900 + seed, frames, C)), None),
        "dcw": draw(dcw_settings(frames)),
        "adapters": draw(st.sampled_from([None, None, torch.tensor([0.5]), torch.tensor([0.0, 1.5])])),
        "source": None,
        "target": None,
    }
    if has_source:
        given["source"] = tensor(draw(_SEEDS), frames, C)
        given["denoise"] = maybe(curves(0.0, 1.0, frames), 1.0)
        given["source_blend"] = maybe(curves(0.0, 1.0, frames), None)
    elif mask is not None:
        given["denoise"] = draw(st.sampled_from([0.0, 0.5, 1.0]))
    if has_source or mask is not None:
        given["initial_noise"] = maybe(curves(0.0, 1.0, frames), None)
        given["timesteps"] = maybe(st.sampled_from([[0.9, 0.5, 0.1], [1.0, 0.3], [0.4]]), None)
    if has_target:
        given["target"] = tensor(draw(_SEEDS), frames, C)
        given["x0_target"] = maybe(curves(0.0, 1.0, frames), None)
        given["x0_target_gate"] = draw(st.sampled_from([0.0, 0.4, 1.0]))
        given["x0_target_strength"] = maybe(curves(0.0, 1.0, frames), 0.0)
    return request(number, frames, **given)


@st.composite
def any_mix(draw: Callable, frames: int = T, largest: int = 6) -> list[SlotRequest]:
    """Requests to be streamed together, numbered."""
    return [draw(any_request(number, frames)) for number in range(draw(st.integers(1, largest)))]


@st.composite
def shared_values(draw: Callable, frames: int = T) -> dict[str, object]:
    """Shared controls, some of all."""
    all_of_them = {
        "velocity_scale": curves(0.2, 1.5, frames),
        "source_blend": curves(0.0, 1.0, frames),
        "sde_denoise_curve": curves(0.0, 1.0, frames),
        "ode_noise": curves(0.0, 0.6, frames),
        "x0_target": curves(0.0, 1.0, frames),
        "x0_target_gate": st.sampled_from([0.0, 0.5, 1.0]),
        "x0_target_strength": curves(0.0, 1.0, frames),
        "guidance": curves(0.0, 4.0, frames),
        "apg_momentum": curves(-0.9, 0.5, frames),
        "cfg_rescale": curves(0.0, 1.0, frames),
        "temporal_weights": st.lists(curves(0.0, 2.0, frames), min_size=1, max_size=3),
        "channel_gain": _SEEDS.map(lambda seed: 1 + 0.3 * tensor(900 + seed, frames, C)),
        "dcw": dcw_settings(frames),
        "solver": st.sampled_from(["ode", "sde"]),
        "adapters": st.sampled_from([torch.tensor([0.3]), torch.tensor([0.0, 0.7])]),
    }
    names = draw(st.sets(st.sampled_from(sorted(all_of_them)), max_size=5))
    return {name: draw(all_of_them[name]) for name in sorted(names)}
