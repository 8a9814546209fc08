# SPDX-License-Identifier: Apache-2.0
"""Which GPUs are built for: by name ahead of time, or the one that is here. Libraries and GPUs are simulated: none is needed."""

from __future__ import annotations

from collections import deque
from enum import Enum
from types import SimpleNamespace

import pytest
import torch

from shared_protocol.errors import DemonError
from trt_engines.metadata import ANY, Machine
from trt_engines.targets import machine_to_build_for
from trt_engines.tensorrt_library import TensorRt

ComputeCapability = Enum("ComputeCapability", ["NONE", "CURRENT", "SM75", "SM89", "SM120"])
AHEAD = TensorRt(SimpleNamespace(ComputeCapability=ComputeCapability), "tensorrt_rtx", "1.7.1", None, deque())
HERE_ONLY = TensorRt(SimpleNamespace(), "tensorrt", "10.9", None, deque())


@pytest.fixture
def gpu(monkeypatch):
    """Makes a GPU of some compute capability, or None."""

    def use(capability):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Such")

    return use


def refused(library, *names):
    with pytest.raises(DemonError) as raised:
        machine_to_build_for(library, names)
    return raised.value.code, raised.value.message


def test_names_are_taken_in_any_order_and_case_and_once(gpu):
    gpu(None)
    expected = Machine("tensorrt_rtx", "1.7.1", "SM120,SM89")
    assert machine_to_build_for(AHEAD, ["SM89", "sm120", "SM89"]) == expected
    assert machine_to_build_for(AHEAD, ["SM120", "SM89"]) == expected


def test_by_default_the_kind_of_the_gpu_that_is_here_is_built_for(gpu):
    gpu((8, 9))
    built = machine_to_build_for(AHEAD, [])
    assert (built.compute_capability, built.gpu, built.driver) == ("SM89", ANY, ANY)


@pytest.mark.parametrize("name", ["SM90", "SM8", "NONE", "CURRENT"])
def test_what_the_library_does_not_build_for_is_refused_with_what_it_does(gpu, name):
    gpu(None)
    code, said = refused(AHEAD, "SM89", name)
    assert code == "E_FIELD"
    assert "it builds for SM75, SM89, SM120. On another GPU use the eager or the compile backend" in said


def test_a_gpu_here_that_the_library_does_not_build_for_is_refused(gpu):
    gpu((9, 0))
    code, said = refused(AHEAD)
    assert code == "E_FIELD"
    assert "does not build for SM90" in said


def test_without_a_gpu_it_is_said_what_may_be_named(gpu):
    gpu(None)
    assert refused(AHEAD) == (
        "E_DEVICE",
        "there is no GPU here to build for; name what tensorrt_rtx 1.7.1 builds for with --for: SM75, SM89, SM120",
    )


def test_a_library_that_builds_for_its_own_gpu_binds_the_engine_to_it(gpu):
    gpu((9, 0))
    built = machine_to_build_for(HERE_ONLY, [])
    assert (built.library, built.compute_capability, built.gpu) == ("tensorrt", "SM90", "NVIDIA Such")
    assert built.driver != ANY
    assert machine_to_build_for(HERE_ONLY, ["sm90"]) == built
    code, said = refused(HERE_ONLY, "SM89")
    assert code == "E_FIELD"
    assert "--for names SM89" in said
    assert "run it there, or build with tensorrt-rtx" in said


def test_a_library_that_builds_for_its_own_gpu_builds_for_none_without_one(gpu):
    gpu(None)
    for names in ([], ["SM89"]):
        code, said = refused(HERE_ONLY, *names)
        assert code == "E_DEVICE"
        assert "GPU" in said
