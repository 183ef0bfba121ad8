"""What every registered block must do as a PyTorch module; a block that is registered later is tested too."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules import module as torch_module
from torch.utils.checkpoint import checkpoint

from yolo_coordbifpn.blocks import dispatch
from yolo_coordbifpn.blocks.density import DensityHead
from yolo_coordbifpn.blocks.grid import GridActivation
from yolo_coordbifpn.blocks.rezero import ReZero
from yolo_coordbifpn.registry import TABLE
from yolo_coordbifpn.registry.shipped import declared

NAMES = [block.__name__ for block in declared()]
SIZES = [(1, 1), (1, 7), (7, 1), (5, 3), (6, 4)]
MODES = pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:.*lambda pickled")


@dataclass
class Case:
    """A block with weights that no default hides, and what it is given."""

    block: nn.Module
    inputs: int

    def features(self, *size: int, batch: int = 3, **options: Any) -> list[Tensor]:
        """Draw features of shape (batch, 16, *size) for each input."""
        return [torch.randn(batch, 16, *(size or (5, 4)), **options) for _ in range(self.inputs)]

    def give(self, *xs: Tensor) -> Any:
        """Return features as the block takes them: a tensor, or a list of them."""
        return xs[0] if self.inputs == 1 else list(xs)

    def run(self, *xs: Tensor) -> Tensor:
        """Run the block on features."""
        return self.block(self.give(*xs))

    def skip_without_weights(self) -> None:
        """Skip the test for a block that a loss of its own trains alone: its output does not depend on its weights."""
        if isinstance(self.block, GridActivation):
            assert not self.run(*self.features()).requires_grad
            pytest.skip("its output does not depend on its weights")

    def functional(self, parameters: dict[str, Tensor], *xs: Tensor) -> Tensor:
        """Run the block with other parameters, and with copies of its buffers, which training mode changes."""
        buffers = {name: buffer.clone() for name, buffer in self.block.named_buffers()}
        return torch.func.functional_call(self.block, (parameters, buffers), (self.give(*xs),))


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, own_blocks: None) -> Case:
    """Build a block by its name in the table; one that refuses the channels of one layer reads two."""
    torch.manual_seed(0)
    TABLE.discovery.find([request.param])
    cls = TABLE.named(request.param)
    try:
        block, inputs = cls(16), 1
    except ValueError:
        block, inputs = cls([16, 16]), 2
    for p in block.parameters():
        nn.init.uniform_(p, -0.4, 0.6)
    for m in block.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -0.5, 0.5)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    if hasattr(block, "gain"):
        block.gain = 2.0001
    return Case(block.eval(), inputs)


def gradients(out: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    """Return gradients of an uneven sum of an output."""
    return torch.autograd.grad((out * torch.linspace(-1, 2, out.numel()).view_as(out)).sum(), of)


def nodes(out: Tensor) -> set[Any]:
    """Return all nodes of the autograd graph behind an output."""
    found, new = set(), [out.grad_fn]
    while new:
        node = new.pop()
        if node is not None and node not in found:
            found.add(node)
            new += [x for x, _ in node.next_functions]
    return found


# Compilers, exporters and tracers


def test_trace(case: Case) -> None:
    """A traced block gives the same."""
    xs = case.features()
    traced = torch.jit.trace(case.block, (case.give(*xs),))
    torch.testing.assert_close(traced(case.give(*xs)), case.run(*xs))


@MODES
def test_fx(case: Case, train: bool) -> None:
    """A symbolic trace gives the same in both modes, whichever it was made in, alone and as part of a model."""
    traced = torch.fx.symbolic_trace(case.block.train(train))
    for mode in (False, True):
        xs = case.features()
        expected = copy.deepcopy(case).block.train(mode)(case.give(*xs))
        torch.testing.assert_close(copy.deepcopy(traced).train(mode)(case.give(*xs)), expected)
    with torch.no_grad():
        torch.fx.symbolic_trace(case.block)


def test_fx_inside_a_model(case: Case) -> None:
    """A block is traced as part of a model, which gives it a list of traced values."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = case.block

        def forward(self, x: Tensor) -> Tensor:
            return self.block(case.give(*[x + k for k in range(case.inputs)]))

    (x,) = case.features()[:1]
    torch.testing.assert_close(torch.fx.symbolic_trace(Model())(x), Model()(x))


@pytest.mark.slow
@MODES
def test_compile(case: Case, train: bool) -> None:
    """Compiled without a graph break, a block gives the same output and gradients."""
    xs = case.features(requires_grad=True)
    twin = copy.deepcopy(case)
    twin.block.train(train)
    expected = twin.run(*xs)
    torch._dynamo.reset()
    compiled = torch.compile(case.block.train(train), backend="aot_eager", fullgraph=True)
    out = compiled(case.give(*xs))
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(gradients(out, *xs), gradients(expected, *xs))
    with torch.no_grad():
        torch.testing.assert_close(compiled(case.give(*xs)), expected.detach())


@pytest.mark.slow
@pytest.mark.parametrize("exporters", ["known", "unknown"])
def test_compiled_training_keeps_what_the_loss_needs(exporters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so too where torch cannot tell an exporter from a compiler, before 2.7."""
    if exporters == "unknown":
        monkeypatch.setattr(dispatch, "_exporting", None)
    x = torch.randn(2, 16, 8, 8)
    for block, name, given in ((GridActivation(16), "logits", x), (DensityHead([16]), "densities", [x])):
        assert getattr(block, name) is None
        torch._dynamo.reset()
        torch.compile(block.train(), backend="eager")(given)
        assert getattr(block, name).requires_grad


@pytest.mark.skipif(not hasattr(torch, "export"), reason="this torch has no torch.export")
def test_export(case: Case) -> None:
    """An exported block gives the same."""
    xs = case.features()
    program = torch.export.export(case.block, (case.give(*xs),))
    torch.testing.assert_close(program.module()(case.give(*xs)), case.run(*xs))


@pytest.mark.parametrize("grad", [False, True])
def test_fake_tensors(case: Case, grad: bool) -> None:
    """Tensors without values pass through, with the shape and dtype of real ones."""
    xs = case.features()
    expected = case.run(*xs)
    with FakeTensorMode() as mode, torch.set_grad_enabled(grad):
        state = {k: mode.from_tensor(x) for k, x in [*case.block.named_parameters(), *case.block.named_buffers()]}
        out = torch.func.functional_call(case.block, state, (case.give(*map(mode.from_tensor, xs)),))
    assert (out.shape, out.dtype) == (expected.shape, expected.dtype)


# Transforms


@MODES
def test_transforms_of_torch_func(case: Case, train: bool) -> None:
    """`torch.func` differentiates a block, forward and backward, by inputs and parameters, as autograd does."""
    case.block.train(train)
    xs = case.features(dtype=torch.float64, requires_grad=True)
    case.block.double()
    parameters = dict(case.block.named_parameters())
    expected = case.functional(parameters, *xs)
    cotangent = torch.randn_like(expected)

    out, vjp = torch.func.vjp(case.functional, parameters, *xs)
    by_parameter, *by_input = vjp(cotangent)
    torch.testing.assert_close(out, expected)
    wanted = torch.autograd.grad(expected, [*parameters.values(), *xs], cotangent, materialize_grads=True)
    torch.testing.assert_close([*by_parameter.values(), *by_input], list(wanted))

    loss = torch.func.grad(lambda *x: (case.functional(parameters, *x) * cotangent).sum(), tuple(range(case.inputs)))
    torch.testing.assert_close(list(loss(*xs)), list(wanted[len(parameters) :]))

    tangents = tuple(map(torch.randn_like, xs))
    _, directional = torch.func.jvp(lambda *x: case.functional(parameters, *x), tuple(xs), tangents)
    torch.testing.assert_close((directional * cotangent).sum(), sum((g * t).sum() for g, t in zip(by_input, tangents)))


def test_forward_mode(case: Case) -> None:
    """Forward-mode differentiation gives the directional derivative, with gradients on and off."""
    xs = case.features(dtype=torch.float64)
    case.block.double()
    tangents = tuple(map(torch.randn_like, xs))
    _, expected = torch.func.jvp(case.run, tuple(xs), tangents)
    for grad in (True, False):
        with torch.autograd.forward_ad.dual_level(), torch.set_grad_enabled(grad):
            duals = map(torch.autograd.forward_ad.make_dual, xs, tangents)
            tangent = torch.autograd.forward_ad.unpack_dual(case.run(*duals)).tangent
        torch.testing.assert_close(tangent, expected)


@MODES
def test_vectorized_jacobian(case: Case, train: bool) -> None:
    """A jacobian computed with a batch of gradients is that of one gradient after the other."""
    case.block.train(train)
    xs = tuple(case.features(2, 3, batch=2))
    slow, fast = (torch.autograd.functional.jacobian(case.run, xs, vectorize=x) for x in (False, True))
    torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("grad", [False, True])
def test_vmap(case: Case, grad: bool) -> None:
    """Mapped over batches of features, or over sets of parameters, a block gives what a loop gives."""
    many = [torch.stack([x, x.flip(0), 2 * x]) for x in case.features()]
    parameters = {k: torch.stack([p, 2 * p]).detach() for k, p in case.block.named_parameters()}
    with torch.set_grad_enabled(grad):
        expected = torch.stack([case.run(*xs) for xs in zip(*many)])
        torch.testing.assert_close(torch.vmap(case.run)(*many), expected)
        xs = case.features()
        sets = [{k: p[i] for k, p in parameters.items()} for i in range(2)]
        mapped = torch.vmap(case.functional, (0, *[None] * case.inputs))(parameters, *xs)
        torch.testing.assert_close(mapped, torch.stack([case.functional(p, *xs) for p in sets]))


def test_gradients_of_each_sample(case: Case) -> None:
    """`vmap` over `grad` gives the gradients of the parameters for each sample."""
    parameters = {k: p.detach() for k, p in case.block.named_parameters()}

    def loss(parameters: dict[str, Tensor], *xs: Tensor) -> Tensor:
        return case.functional(parameters, *[x[None] for x in xs]).square().sum()

    xs = case.features()
    mapped = torch.vmap(torch.func.grad(loss), (None, *[0] * case.inputs))(parameters, *xs)
    for k in range(3):
        torch.testing.assert_close(
            {name: g[k] for name, g in mapped.items()},
            torch.func.grad(loss)(parameters, *[x[k] for x in xs]),
            rtol=1e-4,
            atol=1e-4,
        )


# Dtypes, layouts and sizes


@MODES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(case: Case, dtype: torch.dtype, train: bool) -> None:
    """Under autocast a block gives the dtype of its plain formula, traced, and nearly its values."""
    xs = case.features(dtype=dtype)
    traced = torch.fx.symbolic_trace(copy.deepcopy(case.block).train(train))
    with torch.autocast("cpu", torch.bfloat16):
        expected = traced(case.give(*xs))
        outs = [copy.deepcopy(case).block.train(train)(case.give(*xs))]
        with torch.no_grad():
            outs.append(case.block.train(train)(case.give(*xs)))
    for out in outs:
        torch.testing.assert_close(out, expected, rtol=0.05, atol=0.05)
        assert dtype is torch.float32 or out.dtype is dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(case: Case, dtype: torch.dtype) -> None:
    """Cast to half precision, a block gives that dtype, nearly the same values, and keeps its gain exactly."""
    xs = case.features()
    expected, gain = case.run(*xs), getattr(case.block, "gain", None)
    case.block.to(dtype)
    assert getattr(case.block, "gain", None) == gain
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            out = case.run(*[x.to(dtype) for x in xs])
        assert out.dtype is dtype
        torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)


STRIDED: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "cut out": lambda x: torch.nn.functional.pad(x, (1, 2, 1, 1, 3, 1))[:, 3:-1, 1:-1, 1:-2],
    "every second": lambda x: x.repeat_interleave(2, 3)[..., ::2],
}


@pytest.mark.parametrize("layout", STRIDED)
@MODES
def test_layouts(case: Case, layout: str, train: bool) -> None:
    """Outputs and gradients do not depend on the strides of the features, with gradients on and off."""
    twin = copy.deepcopy(case)
    xs = case.features(requires_grad=True)
    expected = case.block.train(train)(case.give(*xs))
    strided = [STRIDED[layout](x.detach()).requires_grad_() for x in xs]
    out = copy.deepcopy(twin).block.train(train)(case.give(*strided))
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(gradients(out, *strided), gradients(expected, *xs), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(twin.block.train(train)(case.give(*strided)), expected.detach())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sizes(case: Case, size: tuple[int, int], layout: torch.memory_format) -> None:
    """On maps of one pixel, one row or one column too, a block equals its plain formula, traced."""
    xs = [x.contiguous(memory_format=layout) for x in case.features(*size)]
    expected = torch.fx.symbolic_trace(case.block)(case.give(*xs))
    torch.testing.assert_close(case.run(*xs), expected)
    with torch.no_grad():
        torch.testing.assert_close(case.run(*xs), expected)


@MODES
def test_empty_batch(case: Case, train: bool) -> None:
    """A batch without images gives one without images, and gradients of zero."""
    full, xs = case.run(*case.features()), case.features(batch=0, requires_grad=True)
    case.block.train(train)
    out = case.run(*xs)
    assert out.shape == (0, *full.shape[1:])
    grads = torch.autograd.grad(out.sum(), [*xs, *case.block.parameters()], materialize_grads=True)
    assert not any(g.abs().sum() for g in grads)
    with torch.no_grad():
        assert case.run(*xs).shape == out.shape


@MODES
def test_without_gradients(case: Case, train: bool) -> None:
    """With gradients off, and in inference mode, a block gives the same, also on features that need no gradient."""
    case.block.train(train)
    xs = case.features()
    expected = copy.deepcopy(case).run(*[x.clone().requires_grad_() for x in xs])
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            out = copy.deepcopy(case).run(*xs)
        torch.testing.assert_close(out.detach(), expected.detach())


# Hooks, wrappers, and tensors that the block must not change


HOOKS = ("forward_pre_hook", "forward_hook", "full_backward_pre_hook", "full_backward_hook")


@MODES
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("everywhere", [False, True], ids=["own", "global"])
def test_hooks(case: Case, hook: str, everywhere: bool, train: bool) -> None:
    """Hooks see every layer with weights, whichever kind is registered alone, and change nothing."""
    case.skip_without_weights()
    case.block.train(train)
    xs = case.features(requires_grad=True)
    twin = copy.deepcopy(case)
    expected = gradients(twin.run(*xs), *xs, *twin.block.parameters())
    layers = [m for m in case.block.modules() if m._parameters]
    seen: list[nn.Module] = []

    def note(module: nn.Module, *args: Any) -> None:
        seen.append(module)

    if everywhere:
        handles = [getattr(torch_module, f"register_module_{hook}")(note)]
    else:
        handles = [getattr(m, f"register_{hook}")(note) for m in layers]
    try:
        got = gradients(case.run(*xs), *xs, *case.block.parameters())
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(got, expected)
    times = {1, case.inputs}  # a layer may be shared by the inputs
    assert all(seen.count(m) in times for m in layers), [type(m).__name__ for m in layers if seen.count(m) not in times]


@MODES
def test_a_wrapped_layer_is_called(case: Case, train: bool) -> None:
    """A layer whose `forward` is wrapped, as offloading and profilers do, runs through the wrapper."""
    case.block.train(train)
    layers = [m for m in case.block.modules() if m is not case.block and m._parameters]
    seen: list[nn.Module] = []

    def wrap(m: nn.Module) -> None:
        original = m.forward
        m.forward = lambda *args: (seen.append(m), original(*args))[1]

    for m in layers:
        wrap(m)
    case.run(*case.features())
    assert set(seen) == set(layers)


@MODES
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_nothing_is_written_that_belongs_to_others(case: Case, layout: torch.memory_format, train: bool) -> None:
    """The inputs, the output and all gradients in the backward pass stay as they were."""
    case.block.train(train)
    xs = [x.contiguous(memory_format=layout).requires_grad_() for x in case.features()]
    kept = [(x, x.detach().clone()) for x in xs]
    out = case.run(*xs)
    kept.append((out, out.detach().clone()))

    def note(grads: tuple[Tensor | None, ...]) -> None:
        kept.extend((g, g.clone()) for g in grads if g is not None)

    for node in nodes(out):
        node.register_prehook(note)
    seed = torch.randn_like(out)
    kept.append((seed, seed.clone()))
    out.backward(seed)
    assert len(kept) > len(nodes(out))
    for now, before in kept:
        assert torch.equal(now, before)


def test_checkpointing(case: Case) -> None:
    """Recomputed in the backward pass, a block has the same gradients."""
    xs = case.features(requires_grad=True)
    expected = gradients(case.run(*xs), *xs)
    torch.testing.assert_close(gradients(checkpoint(case.run, *xs, use_reentrant=False), *xs), expected)


# What the package asks of a block ------------------------------------------------------------------------------------


def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    """The gradients of inputs and parameters, which a block may write out, are the limits of differences."""
    case.block.double()
    xs = case.features(3, 2, batch=1, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in case.block.named_parameters()]

    def run(*values: Tensor) -> Tensor:
        parameters = dict(zip(names, values[case.inputs :]))
        return case.functional(parameters, *values[: case.inputs])

    parameters = [p.detach().requires_grad_() for p in case.block.parameters()]
    assert torch.autograd.gradcheck(run, [*xs, *parameters], fast_mode=True)


def test_the_neutral_state(case: Case) -> None:
    """A block in its neutral state outputs its input: the first, the sum or the concatenation of several."""
    if not hasattr(case.block, "neutral_"):
        pytest.skip("it has no neutral state")
    case.block.neutral_()
    xs = case.features()
    out = case.run(*xs)
    expected = {"SpatialGate": xs[0], "BiFPN_Concat": torch.cat(xs, 1)}.get(
        type(case.block).__name__, sum(xs[1:], xs[0])
    )
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


def test_its_row_builds_it_again(case: Case) -> None:
    """The arguments that a block writes into a model YAML build one of the same shapes and the same gain."""
    if not hasattr(case.block, "row"):
        pytest.skip("it writes no arguments")
    row = case.block.row()
    assert row == yaml.safe_load(yaml.safe_dump(row))
    again = type(case.block)(16 if case.inputs == 1 else [16] * case.inputs, *row)
    assert getattr(again, "gain", None) == getattr(case.block, "gain", None)
    again.load_state_dict(case.block.state_dict())


def test_fusing_keeps_the_output(case: Case) -> None:
    """A block that fuses itself for inference gives the same, also fused twice."""
    if not hasattr(case.block, "fuse"):
        pytest.skip("it does not fuse itself")
    xs = case.features()
    expected = case.run(*xs)
    for _ in range(2):
        case.block.fuse()
        torch.testing.assert_close(case.run(*xs), expected, rtol=1e-4, atol=1e-5)


def test_in_a_rezero(case: Case) -> None:
    """Inside a `ReZero` a block with one input is the identity at first; then everything has a gradient."""
    if case.inputs > 1:
        pytest.skip("it has several inputs")
    case.skip_without_weights()
    whole, (x,) = ReZero(case.block), case.features()
    torch.testing.assert_close(whole(x), x, rtol=0, atol=0)
    whole.weight.data.fill_(0.5)
    grads = gradients(whole(x), *whole.parameters())
    assert all(g.abs().sum() > 0 for g in grads)


# Copies and state


def test_copies(case: Case) -> None:
    """A deep copy and a pickled block give the same, with the same arguments."""
    xs = case.features()
    for other in (copy.deepcopy(case.block), pickle.loads(pickle.dumps(case.block))):  # noqa: S301
        torch.testing.assert_close(other(case.give(*xs)), case.run(*xs), rtol=0, atol=0)
        assert getattr(other, "row", list)() == getattr(case.block, "row", list)()


def renewed(block: nn.Module) -> nn.Module:
    """Copy a block with other weights, and its gain changed if it has one."""
    other = copy.deepcopy(block)
    for p in other.parameters():
        nn.init.uniform_(p, 0.2, 0.9)
    if hasattr(other, "gain"):
        other.gain = 7.0
    return other


@pytest.mark.parametrize("gain", [1.0, 2.0001])
def test_state_dict(case: Case, gain: float, tmp_path: Any) -> None:
    """A state dict holds everything, loads strictly and safely, and keeps the gain exact."""
    if hasattr(case.block, "gain"):
        case.block.gain = gain
    xs = case.features()
    torch.save(nn.Sequential(case.block).state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(isinstance(value, Tensor) for value in state.values())
    for strict in (True, False):
        other = nn.Sequential(renewed(case.block))
        other.load_state_dict(state, strict=strict)
        assert getattr(other[0], "gain", gain) == gain
        torch.testing.assert_close(other[0](case.give(*xs)), case.run(*xs), rtol=0, atol=0)


def partial(block: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Give state dicts that do not hold a block's weights completely: nothing, another's, all without one."""
    state = {f"0.{name}": value for name, value in block.state_dict().items() if name != "gain"}
    yield {}
    yield {f"1.{name}": value for name, value in block.state_dict().items()}
    for missing, _ in block.named_parameters():
        yield {name: value for name, value in state.items() if name != f"0.{missing}"}


def test_a_partial_state_dict_keeps_the_gain(case: Case) -> None:
    """A state dict without some of a block's weights does not change its gain."""
    for state in partial(case.block):
        other = nn.Sequential(renewed(case.block))
        before = getattr(other[0], "gain", None)
        other.load_state_dict(state, strict=False)
        assert getattr(other[0], "gain", None) == before


def test_the_state_dict_does_not_depend_on_the_default_device(case: Case) -> None:
    """The gain is saved as a number whatever the default device, which may not support float64."""
    with torch.device("meta"):
        state = case.block.state_dict()
    assert not any(value.is_meta for value in state.values())
