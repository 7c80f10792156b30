"""A GPU for machines without one: it computes nothing and notices whenever host and device would wait for each other.

torch's "meta" device carries shapes only. Under `HostWaits`, every operation that a real GPU could not queue and go on
from is written down: a value read back (`.item()`, `bool()`, `if tensor`), a copy between host and device, an index or
a shape that depends on values.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
READS_A_VALUE = {"_local_scalar_dense", "is_nonzero", "equal"}
SHAPE_DEPENDS_ON_VALUES = {"nonzero", "masked_select", "_unique2", "unique_dim"}


class HostWaits(TorchDispatchMode):
    """While active, `seen` collects the names of the operations that would make host and device wait."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []
        self.calls = _HiddenCopies(self.seen)

    def __enter__(self):
        self.calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        return self.calls.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").split(".")[0]
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        on_device = any(t.device == DEVICE for t in given)
        if on_device and name in READS_A_VALUE | SHAPE_DEPENDS_ON_VALUES:
            self.seen.append(name)
            if name in READS_A_VALUE:
                return True  # there is no value; any will do
        if on_device and name == "_to_copy" and torch.device((kwargs or {}).get("device", DEVICE)).type == "cpu":
            self.seen.append(name)
            return torch.zeros(given[0].shape, dtype=(kwargs or {}).get("dtype", given[0].dtype))
        result = function(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        # A number in a 0-dim host tensor travels with an operation's arguments; all else is copied over.
        from_host = any(t.device.type == "cpu" and (t.ndim or name in ("_to_copy", "copy_", "index")) for t in given)
        if from_host and any(t.device == DEVICE for t in (*given, *made)):
            self.seen.append(name)
        return result


class _HiddenCopies(TorchFunctionMode):
    """Copies to the device that torch makes inside one call: a tensor from Python numbers, an index from a list."""

    def __init__(self, seen: list[str]):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        makes = function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE
        indexes = function is torch.Tensor.__getitem__ and args[0].device == DEVICE and isinstance(args[1], list)
        if makes or indexes:
            self.seen.append("tensor" if makes else "index")
        return function(*args, **kwargs)


class RecordedCalls(TorchDispatchMode):
    """A CUDA graph on the CPU: notes every operation with the tensors it ran on, and runs them again on the same ones.

    As on a GPU, a replay looks at no Python: a value that was read while recording stays what it was.
    """

    def __init__(self):
        super().__init__()
        self.log: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.log.append((function, args, kwargs or {}, result))
        return result

    @torch.inference_mode()  # memory is memory, whichever mode it was made in
    def replay(self):
        for function, args, kwargs, recorded in self.log:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(recorded), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():  # else a view, or in place
                    old.copy_(new)


def let_the_cpu_record_graphs(monkeypatch):
    """Put `RecordedCalls` in the place of CUDA's graphs, and nothing in the place of its streams."""

    class Stream:
        def wait_stream(self, other):
            pass

    for name, stand_in in {
        "CUDAGraph": RecordedCalls,
        "graph": lambda graph: graph,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
