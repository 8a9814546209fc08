# SPDX-License-Identifier: Apache-2.0
"""A GPU that is not there: tensors that say `cuda:0`, and whose values the host reaches only by what is written down.

Every operation on them is computed by the CPU, so that results have values, and a GPU's rules are kept: what mixes them with
tensors of the host raises (a host tensor without dimensions is a number, which CUDA takes), and so does an index on the host,
which CUDA would take at the price of a wait. What streams may rely on of each other is checked (`device_streams`). What a GPU's
own kernels give, and how fast, is not shown by this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from device_streams import Block, Event, Stream, Streams
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from engine_server.model import dit, dit_block, fourier

NAME = "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition"
"""Longer than a `welcome` has room for."""
CAPABILITY = (8, 9)
GPU = torch.device("cuda:0")
aten = torch.ops.aten
READS = (
    aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten._unique2,
    aten.allclose,
)  # fmt: skip
"""Operations whose result the host has to wait for."""


class OnGpu(torch.Tensor):
    """A tensor of the GPU. To torch's own code it is on the meta device, which has no values either."""

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, hidden: torch.Tensor, block: Block) -> OnGpu:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            hidden.size(),
            strides=hidden.stride(),
            storage_offset=hidden.storage_offset(),
            dtype=hidden.dtype,
            device="meta",
        )

    def __init__(self, hidden: torch.Tensor, block: Block) -> None:
        self.hidden = hidden
        self.block = block

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        """Its memory is no one else's before the stream has done what it was given so far."""
        self.block.keep_for(stream)

    def data_ptr(self) -> int:
        """Where the values lie: for what reads and writes by address, as engines do."""
        return self.hidden.data_ptr()

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> None:
        raise RuntimeError(f"{func} on a tensor of a GPU that is gone")


class Gpu(TorchDispatchMode):
    """Computes, and writes down what the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.downloads: list[tuple[int, ...]] = []
        """Shapes of what was copied to the host."""
        self.reads: list[str] = []
        """Operations that gave the host a number or a flag."""
        self.slow_uploads: list[tuple[int, ...]] = []
        """Shapes of what came from the host while it waited: not through pinned memory, or not asked for without waiting."""
        self.late_downloads: list[tuple[int, ...]] = []
        """Shapes of what was copied to pinned memory without waiting."""
        self.streams = Streams()

    @property
    def waits(self) -> int:
        """How often the host had to wait so far."""
        return len(self.downloads) + len(self.reads) + len(self.slow_uploads) + len(self.streams.waits)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        host = [tensor for tensor in tensors if not isinstance(tensor, OnGpu)]
        wanted = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if packet is aten.copy_:
            return self._copy(func, *args, **kwargs)
        if len(host) == len(tensors):  # nothing of the GPU's yet
            # What is like a tensor of the GPU is asked for on the meta device: a number, or a copy.
            if wanted != "cuda" and not (wanted == "meta" and packet in (aten.scalar_tensor, aten._to_copy)):
                return func(*args, **kwargs)
            if packet is aten._to_copy:
                is_async = kwargs.get("non_blocking", False)
                self._note_upload(args[0], is_async=is_async)
                if is_async and _is_pinned(args[0]) and kwargs.get("dtype") in (None, args[0].dtype):
                    return self.computed(
                        args[0].detach(), []
                    )  # what is written to it from now on may be what is copied
            return self.computed(func(*args, **{**kwargs, "device": "cpu"}), [])
        inputs = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
        if packet is aten._to_copy and wanted == "cpu":
            self._download(args[0])
            return func(*hidden(args), **kwargs)
        if packet in READS:
            self.reads.append(packet.__name__)
            self._finish([tensor.block for tensor in inputs])
            return func(*hidden(args), **hidden(kwargs))
        if strangers := [tensor for tensor in host if tensor.ndim or packet in (aten.index, aten.index_put_)]:
            raise RuntimeError(f"{func} mixes the GPU's with the host's {[tuple(one.shape) for one in strangers]}")
        if wanted is not None:
            kwargs = {**kwargs, "device": "cpu"}
        result = func(*hidden(args), **hidden(kwargs))
        if wanted == "cpu":
            return result
        if not func._schema.is_mutable:
            return self.computed(result, inputs)
        written = _written(func, args, kwargs)
        self.streams.launch(
            [one.block for one in inputs], [one.block for one in tree_leaves(written) if isinstance(one, OnGpu)]
        )
        return written

    def computed(self, result: Any, inputs: list[OnGpu]) -> Any:
        """With tensors of the GPU in the place of values: views of the inputs, or what is launched to be computed from them."""
        own = {one.hidden.untyped_storage().data_ptr(): one.block for one in inputs}
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        blocks = {id(one): own.get(one.untyped_storage().data_ptr()) or Block(self.streams) for one in made}
        fresh = [block for block in blocks.values() if block not in own.values()]
        if fresh:
            self.streams.launch([one.block for one in inputs], fresh)
        return tree_map_only(torch.Tensor, lambda one: OnGpu(one, blocks[id(one)]), result)

    def _finish(self, reads: list[Block]) -> None:
        """The host waits for the current stream to read."""
        self.streams.launch(reads, [])
        self.streams.learn(self.streams.current.known)

    def _download(self, source: OnGpu) -> None:
        self.downloads.append(tuple(source.shape))
        self._finish([source.block])

    def _copy(self, func: Any, target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        is_there, comes_from_there = isinstance(target, OnGpu), isinstance(source, OnGpu)
        if comes_from_there and not is_there:
            if non_blocking and getattr(target, "is_pinned_here", False):
                self.late_downloads.append(tuple(source.shape))
                self.streams.launch([source.block], [])
                self.streams.deliver_late(target, source.hidden.to(target.dtype, copy=True))
                return target
            self._download(source)
        elif is_there:
            if not comes_from_there:
                self._note_upload(source, is_async=non_blocking)
            self.streams.launch([source.block] if comes_from_there else [], [target.block])
        func(*hidden((target, source)))
        return target

    def _note_upload(self, tensor: torch.Tensor, *, is_async: bool) -> None:
        is_number = tensor.ndim == 0
        is_whole = tensor.is_contiguous()  # where there are gaps CUDA's copy begins with one that is not pinned
        if not is_number and not (is_async and is_whole and _is_pinned(tensor)):
            self.slow_uploads.append(tuple(tensor.shape))


class _Functions(TorchFunctionMode):
    """What torch decides by the device before it becomes an operation."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.pin_memory:
            return _pinned(args[0])
        if func is torch.empty and kwargs.get("pin_memory"):
            empty = func(*args, **{**kwargs, "pin_memory": False})
            empty.is_pinned_here = True
            return empty
        if func in (torch.tensor, torch.as_tensor) and str(kwargs.get("device")).startswith("cuda"):
            return func(*args, **{**kwargs, "device": "cpu"}).to(GPU)
        if func is F.scaled_dot_product_attention:
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            if any(isinstance(one, OnGpu) for one in inputs):
                assert all(isinstance(one, OnGpu) for one in inputs)
                return self._gpu.computed(func(*hidden(args), **hidden(kwargs)), inputs)
        return func(*args, **kwargs)


@contextmanager
def simulated_gpu(monkeypatch: Any) -> Iterator[Gpu]:
    """One GPU for as long as the block lasts, on this thread only. Tensors of it are of no use afterwards."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: NAME)
    for name in ("allow_tf32", "deterministic"):  # put back in the end
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    gpu = Gpu()
    streams = gpu.streams
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: CAPABILITY)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device=None: Stream(streams))
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking=False: Event(streams))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: streams.current)
    monkeypatch.setattr(torch.cuda, "stream", streams.turn)
    with _Functions(gpu), gpu:
        yield gpu
    assert not streams.hazards, streams.hazards


def take_the_kernels_of_a_gpu(monkeypatch: Any) -> None:
    """Have the CPU take the ways that the code takes on CUDA, where they differ: results are then comparable bit by bit."""
    attend = dit_block.attend

    def normalize(norm: Any, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)

    def attend_ungrouped(query: Any, key: Any, value: Any, bias: Any, scale: float) -> torch.Tensor:
        if bias is not None:
            group = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        return attend(query, key, value, bias, scale)

    monkeypatch.setattr(fourier, "_is_torchs", lambda x: True)
    monkeypatch.setattr(dit_block, "attend", attend_ungrouped)
    for module in (dit, dit_block):
        monkeypatch.setattr(module, "normalize", normalize)


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    """As torch does it: with the same strides, and a pinned tensor is its own."""
    if _is_pinned(tensor):
        return tensor
    pinned: Any = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)
    pinned.is_pinned_here = True
    return pinned


def _is_pinned(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "is_pinned_here", False)


def hidden(tree: Any) -> Any:
    """With the values in the place of the GPU's tensors."""
    return tree_map_only(OnGpu, lambda tensor: tensor.hidden, tree)


def _written(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation in place has written to."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return args[place] if place < len(args) else kwargs[argument.name]
    raise AssertionError(f"{func} writes to nothing")
