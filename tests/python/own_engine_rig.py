# SPDX-License-Identifier: Apache-2.0
"""The user's engines' folder, and a TensorRT that runs what lies there on the simulated GPU, computing in torch.

Finding engines, comparing their notes, reading their bytes, contexts, buffers and scratch are the real code; only what TensorRT
itself does with the bytes is simulated (`trt_simulation.py`).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import torch
from device_rig import GPU
from trt_simulation import MODULE, Engine, HostOrder, library

from engine_server.model.checkpoint_files import find_checkpoint
from engine_server.model.layouts import build
from engine_server.model.recipes import RECIPES
from trt_engines import build_report, open_engines, tensorrt_library
from trt_engines.decoder_module import ExportableDecoder
from trt_engines.engine_folder import ENGINE, EngineFolder, engines_root, file_hash
from trt_engines.engine_kinds import decoder_kind
from trt_engines.engine_stream import Scratch
from trt_engines.metadata import SCHEMA, Machine, Metadata, sizes_of
from trt_engines.sizes import model_shape

MACHINE = Machine("tensorrt_rtx", "1.7.1", "SM89")
"""What the simulated GPU and TensorRT are, as `demon engines build` would note it."""


class OwnEngines:
    """The engines of a checkpoint that were built, without a builder: their bytes are of no use to any TensorRT."""

    def __init__(self, checkpoint):
        files = find_checkpoint(str(checkpoint))
        self._shape = model_shape(files.layout)
        self.folder = EngineFolder(engines_root(), str(checkpoint), files.content_hash)

    def kind(self, seconds=60):
        return decoder_kind(self._shape, seconds)

    def file(self, seconds=60):
        return self.folder.engine(self.kind(seconds))

    def publish(self, seconds=60, *, content=b"an engine", machine=MACHINE, checkpoint_hash=None):
        kind = self.kind(seconds)
        with self.folder.unfinished() as place:
            built = place / kind.name
            built.mkdir()
            (built / ENGINE).write_bytes(content)
            note = Metadata(
                schema=SCHEMA,
                component="decoder",
                name=kind.name,
                precision=kind.precision,
                is_refittable=kind.is_refittable,
                machine=machine,
                recipe=str(RECIPES[kind.precision]),
                calibration_hash=None,
                checkpoint=self.folder.checkpoint,
                checkpoint_hash=checkpoint_hash or self.folder.checkpoint_hash,
                onnx_hash="00" * 32,
                inputs=sizes_of(kind.axes),
                engine_hash=file_hash(built / ENGINE),
                engine_bytes=len(content),
                seconds=1.0,
                built_at=build_report.now(),
            )
            self.folder.publish(kind, built, note)


class SimulatedTensorRt:
    """In the place of TensorRT until the test ends. rows_in_memory, contexts: see `trt_simulation.Engine`; may be changed."""

    def __init__(self, monkeypatch, checkpoint):
        part = find_checkpoint(str(checkpoint)).layout.parts["transformer"]
        self._model = build("transformer", part, device=torch.device("cpu"), dtype=torch.float32)
        self.rows_in_memory = self.contexts = 10**6
        self.loaded = []
        """Names of the engines that were loaded."""
        known = SimpleNamespace(__members__={"SM89": 89, "SM120": 120})
        self.library = replace(library(), module=SimpleNamespace(**vars(MODULE), ComputeCapability=known))
        order = HostOrder()
        for module in (open_engines, tensorrt_library):
            monkeypatch.setattr(module, "load_tensorrt", lambda: self.library)
        monkeypatch.setattr(open_engines, "load_engine", self._load)
        monkeypatch.setattr(open_engines.OpenEngines, "_scratch", property(lambda _: Scratch(GPU, order)))
        self.simulate_current_device(monkeypatch)
        self._order = order

    @staticmethod
    def simulate_current_device(monkeypatch):
        """Which GPU is the thread's current one makes no difference where there is one."""
        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())

    def _load(self, file, library, machine):
        file.check(machine)
        file.read()
        self.loaded.append(file.note.name)
        frames = file.span("hidden_states", 1).most
        module = ExportableDecoder(self._model, recipe=RECIPES["fp32"], max_frames=frames).eval()

        @torch.no_grad()
        def compute(given):
            return {"velocity": module(**given)}

        axes = self._axes(file)
        types = {name: torch.bool if name == "encoder_mask" else torch.float32 for name in axes}
        return Engine(
            compute,
            types,
            ["velocity"],
            axes,
            library=self.library,
            order=self._order,
            rows_in_memory=self.rows_in_memory,
            contexts=self.contexts,
        )

    @staticmethod
    def _axes(file):
        return {name: {axis: file.span(name, axis) for axis in axes} for name, axes in file.note.inputs.items()}
