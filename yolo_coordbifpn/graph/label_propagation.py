"""Labels on the channels of tensors, propagated through the functions that a forward pass calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

EACH_CHANNEL = frozenset({  # functions that treat channels independently and commute with a positive scale
    "interpolate", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "relu", "relu_",
    "leaky_relu", "leaky_relu_", "detach", "clone", "contiguous", "float", "to",
})  # fmt: skip
_LOOKS_ONLY = {"__get__", "size", "stride", "dim", "numel", "is_contiguous"}

Label = TypeVar("Label")


class Follower(TorchFunctionMode, Generic[Label]):
    """A mode in which tensors carry labels that describe their channels.

    Attributes:
        readers: The convolutions that read labelled tensors: their names and the labels.
        problems: The functions that propagate no label: their names and the labels that they read.
        calls: How often each convolution ran, on labelled tensors or others.
    """

    def __init__(self, module: nn.Module, passing: Collection[str] = EACH_CHANNEL) -> None:
        """Prepare to follow the forward pass of a module.

        Args:
            module: The module that will run; convolutions are named as in it.
            passing: Names of the functions whose output has the label of their input.
        """
        super().__init__()
        self.readers: list[tuple[str, Label]] = []
        self.problems: list[tuple[str, list[Label]]] = []
        self.calls: Counter[str] = Counter()
        self._passing = passing
        self._known: dict[int, tuple[Tensor, Label]] = {}  # by id, which stays unique while the tensor is kept
        self._convs = {id(m.weight): name for name, m in module.named_modules() if isinstance(m, nn.Conv2d)}

    def tag(self, tensor: Tensor, label: Label) -> None:
        """Give a tensor a label."""
        self._known[id(tensor)] = (tensor, label)

    def untag(self, tensor: Tensor) -> Label | None:
        """Remove the label of a tensor and return it."""
        return self._known.pop(id(tensor), (tensor, None))[1]

    def of(self, value: Any) -> Label | None:
        """Return the label of a value, None if it has none."""
        entry = self._known.get(id(value))
        return entry[1] if entry else None

    def join(self, tensors: list[Tensor]) -> Label:
        """Return the label of tensors that are concatenated along the channels."""
        raise NotImplementedError

    def same(self, labels: list[Label]) -> bool:
        """Return whether two labels are equal, so that the sum of their tensors has the same label."""
        raise NotImplementedError

    def part(self, label: Label, start: int, stop: int) -> Label | None:
        """Return the label of the channels from start to stop of a labelled tensor, None if they cannot have one."""
        return None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out: Any = func(*args, **(kwargs or {}))
        self._propagate(getattr(func, "__name__", str(func)), args, kwargs or {}, out)
        return out

    def _propagate(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """Label the output of a function, or note what became of the labels that it read."""
        values = [x for a in (*args, *kwargs.values()) for x in (a if isinstance(a, (list, tuple)) else (a,))]
        read = [label for label in map(self.of, values) if label is not None]
        conv = self._convs.get(id(_argument(args, kwargs, 1, "weight"))) if name == "conv2d" else None
        if conv is not None:
            self.calls[conv] += 1
        if not read or name in _LOOKS_ONLY:
            return
        source = _argument(args, kwargs, 0, "input")
        if conv is not None:
            self.readers.append((conv, read[0]))
        elif name in self._passing and _same_channels(source, out):
            self.tag(out, read[0])
        elif name == "cat" and _argument(args, kwargs, 1, "dim") in (1, -3):
            self.tag(out, self.join([*_argument(args, kwargs, 0, "tensors")]))
        elif name in {"add", "__add__", "add_", "__iadd__"} and len(read) == 2 and self.same(read):
            self.tag(out, read[0])
        elif not (name in {"chunk", "split"} and self._divide(source, out)):
            self.problems.append((name, read))

    def _divide(self, source: Tensor, parts: Sequence[Tensor]) -> bool:
        """Label the parts that a tensor is split into; return whether the split is by channels and all have a label."""
        label = self.of(source)
        if label is None or sum(x.shape[1] for x in parts) != source.shape[1]:
            return False
        start = 0
        for tensor in parts:
            piece = self.part(label, start, start + tensor.shape[1])
            if piece is None:
                return False
            self.tag(tensor, piece)
            start += tensor.shape[1]
        return True


def _argument(args: Any, kwargs: Any, place: int, name: str) -> Any:
    """Return an argument that a function was given by position or by name, None if it was not given."""
    return args[place] if len(args) > place else kwargs.get(name)


def _same_channels(source: Any, out: Any) -> bool:
    """Return whether a function outputs a tensor with as many channels as the tensor that it reads."""
    return isinstance(source, Tensor) and isinstance(out, Tensor) and source.shape[1:2] == out.shape[1:2]
