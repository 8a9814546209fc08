# SPDX-License-Identifier: Apache-2.0
"""Nodes that generate: a stream that lives across calls, and one generation at once."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from engine_server.diffusion.curves import CurveLike
from engine_server.diffusion.dcw_settings import UNSET, DcwSettings
from engine_server.diffusion.guidance import GuidanceMode
from engine_server.modulation import Modulation
from engine_server.nodes.definition import Kind, NodeParam, NodePort, Wire
from engine_server.nodes.diffusion import DCW_PARAMS, SCHEDULE, denoise_param
from engine_server.nodes.node import Node, node
from engine_server.nodes.types import Config, MaskedLatent, ModelHandle, Solver
from engine_server.session import Session
from engine_server.stream import StreamHandle
from engine_server.types import Conditioning, Latent, PreparedSource

MODEL, SOLVER = NodePort("model", Wire.MODEL), NodePort("solver", Wire.SOLVER)
MATERIAL = (
    NodePort("positive", Wire.CONDITIONING, description="What to make."),
    NodePort(
        "negative", Wire.CONDITIONING, required=False,
        description="What guidance moves away from; the checkpoint's null condition if there is none.",
    ),
    NodePort(
        "context_latent", Wire.LATENT, required=False,
        description="The structure that the decoder sees; silence if there is none.",
    ),
    NodePort("source_latent", Wire.LATENT, required=False, description="What is transformed, and its noise mask."),
    NodePort("modulation", Wire.MODULATION, required=False),
    NodePort("dcw", Wire.DCW, required=False),
)  # fmt: skip
DURATION = NodeParam(
    "duration", Kind.NUMBER, 60.0, "Seconds, where neither source nor context gives a length.", min=1, max=600
)
GUIDANCE = (
    NodeParam(
        "rcfg_mode", Kind.SELECT, "full", "Where the negative velocity comes from.",
        options=tuple(GuidanceMode), hidden=True,
    ),
    NodeParam("cfg_rescale", Kind.CURVE, 0.0, "Back to the loudness without guidance.", min=0, max=1, hidden=True),
)  # fmt: skip
DCW_PREFIX = "dcw_"
DCW_DESCRIPTION = "As of DCWConfig, where no dcw is wired."
OWN_DCW = (
    NodeParam("enabled", Kind.BOOLEAN, None, "None for what suits the checkpoint."),
    *(replace(param, description=DCW_DESCRIPTION) for param in DCW_PARAMS if param.name != "enabled"),
)


@node(
    "Stream", "sampling",
    "A stream of generations that lives across calls: each submits one request and advances all in flight by one step. It gives "
    "the newest generation that this finished, or None. Steps, depth, length, prompts and curves change without a new stream; "
    "another session, or a source where there was none or the reverse, begins one.",
    inputs=(MODEL, SOLVER, *MATERIAL),
    outputs=(NodePort("latent", Wire.LATENT, required=False),),
    params=(
        *SCHEDULE,
        denoise_param(0.75),
        NodeParam("pipeline_depth", Kind.INTEGER, 8, "Generations in flight.", min=1, max=16),
        NodeParam(
            "playhead_seconds", Kind.NUMBER, 0.0, "In pieces of more than 240 s: work on the 60 s around this time.", min=0,
            hidden=True,
        ),
        NodeParam("drain", Kind.BOOLEAN, False, "Advance until the request of this call is finished, and give its result."),
        DURATION,
        *GUIDANCE,
        *(replace(param, name=DCW_PREFIX + param.name, hidden=True) for param in OWN_DCW),
    ),
)  # fmt: skip
class StreamDenoise(Node):
    def __init__(self) -> None:
        self.stream: StreamHandle | None = None
        """What lives across calls; its pipeline's shared curves act on all that flies."""
        self._opened_for: tuple[Session, bool] | None = None

    def execute(
        self,
        *,
        model: ModelHandle,
        positive: Conditioning,
        context_latent: Latent | None,
        source_latent: Latent | None,
        dcw: DcwSettings | None,
        pipeline_depth: int,
        playhead_seconds: float,
        drain: bool,
        duration: float,
        steps: int,
        shift: float,
        seed: int,
        **shaping: Any,
    ) -> Latent | None:
        piece = piece_of(model.session, source_latent, context_latent, duration)
        stream = self._open(model.session, piece, positive, source_latent is not None, pipeline_depth)
        stream.source, stream.conditioning = piece, positive
        stream.seek(playhead_seconds)
        settings = {name.removeprefix(DCW_PREFIX): shaping.pop(name) for name in _DCW_NAMES}
        if settings["enabled"] is None:
            settings["enabled"] = model.session.checkpoint.settings.dcw
        stream.pipeline.set_dcw(**(vars(DcwSettings(**settings)) if dcw is None else vars(dcw)))
        stream.pipeline.set_channel_gain_tensor(model.gain(stream.pipeline.shape.frames))
        stream.set_adapters(model.strengths())
        request = request_fields(source_latent=source_latent, **shaping) | {
            "steps": steps,
            "shift": shift,
            "seed": seed,
        }
        if drain:
            return stream.generate(**request)
        finished = stream.tick(**request)
        return finished[-1] if finished else None

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.stream = self._opened_for = None

    def _open(
        self, session: Session, piece: PreparedSource, positive: Conditioning, has_source: bool, depth: int
    ) -> StreamHandle:
        if self.stream is None or self._opened_for != (session, has_source):
            self.close()
            self._opened_for = session, has_source
            self.stream = session.stream(
                source=piece, conditioning=positive, pipeline_depth=depth, has_source=has_source
            )
        if self.stream.pipeline.shape.depth != depth:
            self.stream.pipeline.set_depth(depth)
        return self.stream


_DCW_NAMES = tuple(DCW_PREFIX + param.name for param in DCW_PARAMS)


@node(
    "Generate", "sampling", "One generation, start to end.",
    inputs=(MODEL, NodePort("config", Wire.CONFIG), SOLVER, *MATERIAL),
    outputs=(NodePort("latent", Wire.LATENT),),
    params=(DURATION, *GUIDANCE),
)  # fmt: skip
class Generate(Node):
    def execute(
        self,
        *,
        model: ModelHandle,
        config: Config,
        positive: Conditioning,
        context_latent: Latent | None,
        source_latent: Latent | None,
        dcw: DcwSettings | None,
        duration: float,
        **shaping: Any,
    ) -> Latent:
        session = model.session
        piece = piece_of(session, source_latent, context_latent, duration)
        stream = session.stream(
            source=piece,
            conditioning=positive,
            has_source=source_latent is not None,
            steps=config.steps,
            shift=config.shift,
            seed=config.seed,
            pipeline_depth=1,
            admission="queue",
            warm="burst",
            dcw=UNSET if dcw is None else dcw,
            channel_gain=model.gain(len(piece)),
            **request_fields(source_latent=source_latent, denoise=config.denoise, **shaping),
        )
        try:
            stream.set_adapters(model.strengths())
            stream.submit_windows()
            return session.stitch(stream.drain(), len(piece))
        finally:
            stream.close()


def piece_of(
    session: Session, source_latent: Latent | None, context_latent: Latent | None, duration: float
) -> PreparedSource:
    """What a stream is made of: source and structure, each replaced by silence where there is none."""
    structure = context_latent
    if structure is None:
        silence = session.checkpoint.structure.silence
        structure = session.empty_latent(duration) if source_latent is None else Latent(silence(len(source_latent)))
    return PreparedSource(structure if source_latent is None else source_latent, structure, 0)


def request_fields(
    *,
    solver: Solver,
    modulation: Modulation | None,
    negative: Conditioning | None,
    source_latent: Latent | None,
    denoise: CurveLike,
    rcfg_mode: str,
    cfg_rescale: CurveLike,
) -> dict[str, Any]:
    """What a request takes beside its schedule: fields of `Modulation`, and the method."""
    mask = source_latent.noise_mask if isinstance(source_latent, MaskedLatent) else None
    shaped = replace(
        modulation or Modulation(),
        denoise=denoise,
        negative=negative,
        noise_mask=mask,
        rcfg_mode=rcfg_mode,
        cfg_rescale=cfg_rescale,
        **solver.fields(),
    )
    set_by_handle = ("channel_gain", "dcw")
    return {"method": solver.method} | {
        field.name: getattr(shaped, field.name) for field in fields(shaped) if field.name not in set_by_handle
    }
