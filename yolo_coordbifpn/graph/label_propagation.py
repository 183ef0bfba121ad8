"""Follows what is known of the channels of tensors through the functions that a forward pass calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

EACH_CHANNEL = frozenset({  # functions that treat each channel by itself and pass a positive scale through
    "interpolate", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "relu", "relu_",
    "leaky_relu", "leaky_relu_", "detach", "clone", "contiguous", "float", "to",
})  # fmt: skip
_LOOKS_ONLY = {"__get__", "size", "stride", "dim", "numel", "is_contiguous"}

Label = TypeVar("Label")


class Follower(TorchFunctionMode, Generic[Label]):
    """A mode in which tensors keep labels that say something of their channels.

    Attributes:
        readers: The convolutions that read labelled tensors: their names and the labels.
        problems: The functions that no label goes through: their names and the labels that they read.
        calls: How often each convolution ran, labelled or not.
    """

    def __init__(self, module: nn.Module, passing: Collection[str] = EACH_CHANNEL) -> None:
        """Prepare to follow the forward pass of a module.

        Args:
            module: What will be run; its convolutions are known by their names in it.
            passing: Names of the functions whose output has the label of their input.
        """
        super().__init__()
        self.readers: list[tuple[str, Label]] = []
        self.problems: list[tuple[str, list[Label]]] = []
        self.calls: Counter[str] = Counter()
        self._passing = passing
        self._known: dict[int, tuple[Tensor, Label]] = {}  # by identity; keeping the tensor keeps its id its own
        self._convs = {id(m.weight): name for name, m in module.named_modules() if isinstance(m, nn.Conv2d)}

    def tag(self, tensor: Tensor, label: Label) -> None:
        """Give a tensor a label."""
        self._known[id(tensor)] = (tensor, label)

    def untag(self, tensor: Tensor) -> Label | None:
        """Take the label of a tensor away and return it."""
        return self._known.pop(id(tensor), (tensor, None))[1]

    def of(self, value: Any) -> Label | None:
        """Return the label of a value."""
        entry = self._known.get(id(value))
        return entry[1] if entry else None

    def join(self, tensors: list[Tensor]) -> Label:
        """Make the label of tensors that are joined along the channels."""
        raise NotImplementedError

    def same(self, labels: list[Label]) -> bool:
        """Tell whether labels say the same, so that a sum of their tensors has it too."""
        raise NotImplementedError

    def part(self, label: Label, start: int, stop: int) -> Label | None:
        """Make the label of some channels of a tensor, None if there is none for them."""
        return None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out: Any = func(*args, **(kwargs or {}))
        values = [x for a in (*args, *(kwargs or {}).values()) for x in (a if isinstance(a, (list, tuple)) else (a,))]
        read = [label for label in map(self.of, values) if label is not None]
        name = getattr(func, "__name__", str(func))
        conv = self._convs.get(id(args[1])) if name == "conv2d" else None
        if conv is not None:
            self.calls[conv] += 1
        if not read or name in _LOOKS_ONLY:
            return out
        if conv is not None:
            self.readers.append((conv, read[0]))
        elif name in self._passing and out.shape[1:2] == args[0].shape[1:2]:
            self.tag(out, read[0])
        elif name == "cat" and (args[1] if len(args) > 1 else (kwargs or {}).get("dim", 0)) in (1, -3):
            self.tag(out, self.join([*args[0]]))
        elif name in {"add", "__add__", "add_", "__iadd__"} and len(read) == 2 and self.same(read):
            self.tag(out, read[0])
        elif not (name in {"chunk", "split"} and self._divide(read[0], out, args[0].shape)):
            self.problems.append((name, read))
        return out

    def _divide(self, label: Label, parts: Sequence[Tensor], shape: Sequence[int]) -> bool:
        """Label the parts of a tensor; tell whether they are parts along its channels that can have a label."""
        if sum(x.shape[1] for x in parts) != shape[1]:
            return False
        start = 0
        for tensor in parts:
            piece = self.part(label, start, start + tensor.shape[1])
            if piece is None:
                return False
            self.tag(tensor, piece)
            start += tensor.shape[1]
        return True
