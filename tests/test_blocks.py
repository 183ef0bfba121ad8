"""The blocks against the papers' formulas, against reference implementations, and as PyTorch modules."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from effdet.efficientdet import FpnCombine
from timm.layers.coord_attn import CoordAttn
from torch import nn
from torchvision.models import mobilenet_v2

import yolo_coordbifpn
from yolo_coordbifpn import BiFPN_Add, BiFPN_Concat, CoordAtt
from yolo_coordbifpn.blocks import SeparableConv
from yolo_coordbifpn.blocks.strips import pool

PACKAGE = Path(yolo_coordbifpn.__file__).parent


def scrambled(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and running statistic a random value, so that no default hides an error."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=generator))
            m.running_var.copy_(torch.rand(m.running_var.shape, generator=generator) + 0.5)
    return module


def coordatt_by_hand(block: CoordAtt, x: torch.Tensor) -> torch.Tensor:
    """Equations 4 to 9 of the paper in plain loops, in eval mode, for one image."""
    c, h, w = x.shape
    z_h = [[sum(float(x[k, i, j]) for j in range(w)) / w for i in range(h)] for k in range(c)]
    z_w = [[sum(float(x[k, i, j]) for i in range(h)) / h for j in range(w)] for k in range(c)]
    bn = block.bn1
    mip = block.conv1.out_channels

    def squeeze(z: list[list[float]], n: int) -> list[list[float]]:
        out = []
        for m in range(mip):
            row = []
            for p in range(n):
                v = float(block.conv1.bias[m]) + sum(float(block.conv1.weight[m, k, 0, 0]) * z[k][p] for k in range(c))
                v = (v - float(bn.running_mean[m])) / math.sqrt(float(bn.running_var[m]) + bn.eps)
                v = v * float(bn.weight[m]) + float(bn.bias[m])
                row.append(v * min(max(v + 3, 0), 6) / 6)
            out.append(row)
        return out

    def gate(f: list[list[float]], conv: nn.Conv2d, n: int) -> list[list[float]]:
        return [
            [
                1
                / (
                    1
                    + math.exp(-sum(float(conv.weight[k, m, 0, 0]) * f[m][p] for m in range(mip)) - float(conv.bias[k]))
                )
                for p in range(n)
            ]
            for k in range(c)
        ]

    g_h, g_w = gate(squeeze(z_h, h), block.conv_h, h), gate(squeeze(z_w, w), block.conv_w, w)
    return torch.tensor(
        [[[float(x[k, i, j]) * g_h[k][i] * g_w[k][j] for j in range(w)] for i in range(h)] for k in range(c)]
    )


def test_coordatt_is_the_papers_formula() -> None:
    """The block equals the equations written out in loops."""
    block = scrambled(CoordAtt(4)).double().eval()
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(block(x[None])[0].float(), coordatt_by_hand(block, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("channels", "reduction"), [(64, 32), (512, 32), (48, 4), (320, 16)])
@pytest.mark.parametrize("size", [(7, 7), (1, 9), (20, 12)])
def test_coordatt_equals_timm(channels: int, reduction: int, size: tuple[int, int], train: bool) -> None:
    """timm's block with the paper's width takes our weights under the same names and gives the same output."""
    ours = scrambled(CoordAtt(channels, reduction)).train(train)
    theirs = CoordAttn(channels, rd_channels=max(8, channels // reduction), bias=True).train(train)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, channels, *size)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.bn1.running_mean, theirs.bn1.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.bn1.running_var, theirs.bn1.running_var, rtol=1e-5, atol=1e-6)


def test_coordatt_counts_of_the_paper() -> None:
    """The block has 3Cm + 3m + 2C parameters and the state-dict names of the authors' code."""
    for c, m in ((16, 8), (256, 8), (512, 16), (1024, 32)):
        assert sum(p.numel() for p in CoordAtt(c).parameters()) == 3 * c * m + 3 * m + 2 * c
    assert {k.split(".")[0] for k in CoordAtt(64).state_dict()} == {"conv1", "bn1", "conv_h", "conv_w"}


def multiply_adds(model: nn.Module, size: int = 224) -> int:
    """Count the multiply-adds of all convolutions and linear layers by the shapes that pass through them."""
    total = 0

    def count(m: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal total
        total += out.numel() * (m.weight.numel() // m.weight.shape[0])

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    model.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return total


def test_coordatt_in_mobilenetv2_has_the_papers_size() -> None:
    """After each depthwise convolution of an expanded block, MobileNetV2 reaches the paper's 3.95M and 310M."""
    model = mobilenet_v2()
    assert sum(p.numel() for p in model.parameters()) == 3_504_872
    plain = multiply_adds(model)
    for block in model.features:
        layers = getattr(block, "conv", None)
        if layers is not None and len(layers) == 4:  # expand, depthwise, project, bn: expand_ratio is not 1
            layers.insert(2, CoordAtt(layers[2].in_channels))
    assert sum(p.numel() for p in model.parameters()) == 3_950_648
    assert round(plain / 1e6, 1) == 300.8
    assert round(multiply_adds(model) / 1e6, 1) == 306.7


@pytest.mark.parametrize("inputs", [2, 3, 5])
def test_add_equals_effdet(inputs: int) -> None:
    """effdet's fast attention node with our weights gives the same sum."""
    torch.manual_seed(inputs)
    ours = BiFPN_Add([8] * inputs)
    ours.weight.data = torch.randn(inputs)
    ours.weight.data[0] = 0.7
    theirs = FpnCombine(
        feature_info=[{"num_chs": 8, "size": (6, 5)}] * inputs,
        fpn_channels=8,
        inputs_offsets=list(range(inputs)),
        output_size=(6, 5),
        weight_method="fastattn",
    )
    theirs.edge_weights.data = ours.weight.data.clone()
    xs = [torch.randn(2, 8, 6, 5) for _ in range(inputs)]
    torch.testing.assert_close(ours(xs), theirs(xs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [BiFPN_Concat, BiFPN_Add])
def test_fusion_is_the_papers_formula(block: type) -> None:
    """Each input is scaled by relu(w_i) / (eps + sum relu(w_j)), written out in Python numbers."""
    fuse = block([2, 2, 2])
    fuse.weight.data = torch.tensor([0.5, -3.0, 2.0])
    xs = [torch.randn(1, 2, 3, 4) for _ in range(3)]
    parts = [w / (1e-4 + 2.5) * x for w, x in zip((0.5, 0.0, 2.0), xs)]
    expected = torch.cat(parts, 1) if block is BiFPN_Concat else parts[0] + parts[1] + parts[2]
    torch.testing.assert_close(fuse(xs), expected)
    torch.testing.assert_close(fuse.normalized_weights().tolist(), [0.5 / 2.5001, 0.0, 2.0 / 2.5001])


def test_a_new_fusion_weights_all_inputs_equally() -> None:
    """Weights start at 1, one per input, in a one-dimensional parameter that every optimizer accepts."""
    for n in (2, 3, 4):
        fuse = BiFPN_Concat([4] * n)
        assert fuse.weight.tolist() == [1.0] * n
        assert fuse.weight.requires_grad
        assert fuse.normalized_weights().tolist() == pytest.approx([1 / (n + 1e-4)] * n)


def test_negative_weights_give_zeros() -> None:
    """If every weight is below zero, epsilon keeps the division defined."""
    fuse = BiFPN_Concat([2, 2])
    fuse.weight.data.fill_(-1)
    assert fuse([torch.ones(1, 2, 2, 2)] * 2).abs().max() == 0


def blocks() -> list[tuple[nn.Module, list[torch.Tensor] | torch.Tensor]]:
    """One of each block with an input for it, in float64."""
    torch.manual_seed(0)
    x = torch.randn(2, 8, 4, 3, dtype=torch.float64)
    return [
        (scrambled(CoordAtt(8)).double(), x),
        (BiFPN_Concat([8, 8]).double(), [x, x.flip(0)]),
        (BiFPN_Add([8, 8]).double(), [x, x.flip(0)]),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("which", range(3))
def test_gradients(which: int) -> None:
    """Gradients of inputs and parameters are correct in float64, in train and in eval mode."""
    block, x = blocks()[which]
    xs = x if isinstance(x, list) else [x]
    xs = [t[:, :, :3, :2].clone().requires_grad_() for t in xs]
    names, params = zip(*block.named_parameters())
    for train in (False, True):
        block.train(train)

        def run(*args: torch.Tensor) -> torch.Tensor:
            inputs, values = list(args[: len(xs)]), args[len(xs) :]
            return torch.func.functional_call(
                copy.deepcopy(block), dict(zip(names, values)), (inputs if isinstance(x, list) else inputs[0],)
            )

        assert torch.autograd.gradcheck(run, (*xs, *params), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_coordatt_gradients_are_those_of_the_plain_formula(layout: torch.memory_format) -> None:
    """The gradients written out equal those of autograd, also the second ones, in both memory formats."""
    block = scrambled(CoordAtt(4)).double().train()
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()

    def plain(x: torch.Tensor) -> torch.Tensor:
        h, w = block._gates(x.mean(3), x.mean(2))
        return x * h.unsqueeze(3) * w.unsqueeze(2) * block.gain

    block.gain = 4.0
    weights = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((f(x) * weights).sum(), [x, *block.parameters()]) for f in (block, plain))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradgradcheck(block.eval(), (x,), atol=1e-5)


def test_gradients_of_pooling_are_summed_with_others() -> None:
    """The backward pass of pooling does not change the gradient that it is given."""
    x, z = (2 * torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    factors = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    h, w, same = pool(x)
    loss = ((same + z) * factors).sum() + h.sum() + w.sum()
    dx, dz = torch.autograd.grad(loss, (x, z))
    torch.testing.assert_close(dx, factors + 1 / 3 + 1 / 5)
    torch.testing.assert_close(dz, factors)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coordatt_has_the_dtype_of_timm_under_autocast(dtype: torch.dtype, train: bool) -> None:
    """Features of float32 stay float32, with gradients on and off, as in the plain formula."""
    ours, theirs = CoordAtt(16).train(train), CoordAttn(16, rd_channels=8).train(train)
    x = torch.randn(2, 16, 4, 3).to(dtype)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
            assert ours(x).dtype is theirs(x).dtype is dtype


@pytest.mark.parametrize("norm", ["training", "no statistics", "group"])
def test_an_exported_block_normalises_as_it_does_eagerly(norm: str) -> None:
    """A normalisation that computes statistics in eval mode computes them over both strips, also when traced."""
    block, x = scrambled(CoordAtt(8)).eval(), torch.randn(2, 8, 4, 3)
    if norm == "training":
        block.bn1.train()
    elif norm == "group":
        block.bn1 = nn.GroupNorm(2, 8)
    else:
        block.bn1 = nn.BatchNorm2d(8, track_running_stats=False).eval()
    traced = torch.jit.trace(block, (x,))
    torch.testing.assert_close(traced(x), block(x))


def test_coordatt_keeps_only_its_input_for_the_backward_pass() -> None:
    """Training keeps at most 1.2 times the input, strips and gates included."""
    block, x = CoordAtt(128), torch.randn(1, 128, 40, 40, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not any(tensor.data_ptr() == p.data_ptr() for p in (*block.parameters(), *block.buffers())):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block(x)
    assert x.nbytes <= sum(kept.values()) <= 1.2 * x.nbytes


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_features_in_half_precision(layout: torch.memory_format) -> None:
    """The means of long rows of large values do not overflow float16, where their sums would."""
    x = torch.full((1, 8, 160, 160), 1000.0, dtype=torch.float16).contiguous(memory_format=layout)
    assert CoordAtt(8).half().eval()(x).isfinite().all()


def test_a_watched_convolution_is_called() -> None:
    """Hooks on the convolutions, as counters and pruning use them, are called, and the result is the same."""
    block, x = scrambled(CoordAtt(8)).eval(), torch.randn(2, 8, 4, 3)
    expected, seen = block(x), []
    for conv in (block.conv1, block.conv_h, block.conv_w):
        conv.register_forward_hook(lambda m, args, out: seen.append(m))
    torch.testing.assert_close(block(x), expected)
    assert seen == [block.conv1, block.conv_h, block.conv_w]


@pytest.mark.parametrize(("block", "x"), [(CoordAtt(8), (2, 8, 4, 3)), (SeparableConv(8), (2, 8, 4, 3))])
def test_batch_normalisation_folds(block: nn.Module, x: tuple[int, ...]) -> None:
    """A fused block gives the same output without batch normalisation; fusing it again changes nothing."""
    inputs = torch.randn(x)
    expected = scrambled(block).eval()(inputs)
    for _ in range(2):
        block.fuse()
        torch.testing.assert_close(block(inputs), expected, rtol=1e-4, atol=1e-5)
        assert not [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize(("block", "name"), [(CoordAtt(8), "conv1"), (SeparableConv(8), "conv_pw")])
def test_a_replaced_convolution_keeps_its_batch_normalisation(block: nn.Module, name: str) -> None:
    """Nothing is folded into a convolution of another class, such as one that quantises its weight."""
    replaced = copy.deepcopy(block)
    getattr(replaced, name).__class__ = type("QuantConv2d", (nn.Conv2d,), {})
    before = copy.deepcopy(scrambled(replaced).state_dict())
    replaced.fuse()
    torch.testing.assert_close(replaced.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_a_fusion_is_the_same(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Written in place, the weighted inputs equal those scaled and concatenated, in the same memory format."""
    block = BiFPN_Concat([3, 5, 4], gain=2.5)
    block.weight.data = torch.tensor([0.3, -1.0, 2.0])
    xs = [torch.randn(2, c, 6, 4).to(dtype).contiguous(memory_format=layout) for c in block.channels]
    expected = block(xs).detach()
    with torch.no_grad():
        out = block(xs)
        mixed = block([xs[0].double(), *xs[1:]])
    torch.testing.assert_close(out, expected)
    assert out.stride() == expected.stride()
    assert out.dtype is dtype
    assert mixed.dtype is torch.float64


@pytest.mark.parametrize("which", range(3))
def test_inputs_stay_as_they_are(which: int) -> None:
    """No block changes its input, and non-contiguous inputs give the same result."""
    block, x = blocks()[which]
    block.eval()
    before = copy.deepcopy(x)
    out = block(x)
    for a, b in zip(x, before):
        assert torch.equal(a, b)
    last = [t.to(memory_format=torch.channels_last) for t in x] if isinstance(x, list) else x.mT.contiguous().mT
    torch.testing.assert_close(block(last), out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("which", range(3))
def test_dtypes(which: int, dtype: torch.dtype) -> None:
    """The blocks compute in the dtype of their input, and are close to float64 in it."""
    block, x = blocks()[which]
    exact = block.eval()(x)
    block = block.to(dtype)
    out = block([t.to(dtype) for t in x] if isinstance(x, list) else x.to(dtype))
    assert out.dtype is dtype
    tolerance = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-2}[dtype]
    assert (out - exact).norm() / exact.norm() < tolerance


BAD = [
    (lambda: CoordAtt([64, 64]), "one input"),
    (lambda: CoordAtt(0), "channels must be a positive whole number"),
    (lambda: CoordAtt(64, 0), "reduction must be"),
    (lambda: CoordAtt(64, 2.5), "reduction must be"),
    (lambda: CoordAtt(64, True), "reduction must be"),
    (lambda: CoordAtt(64, "half"), "reduction must be"),
    (lambda: CoordAtt(64, None), "reduction must be"),
    (lambda: CoordAtt(256, 1024), r"write \[\] for the paper's reduction of 32"),
    (lambda: CoordAtt(256, 64), "looks like a number of output channels"),
    (lambda: BiFPN_Concat([64]), "two or more inputs"),
    (lambda: BiFPN_Concat(64), "two or more inputs"),
    (lambda: BiFPN_Concat([64, 0]), "positive whole numbers"),
    (lambda: BiFPN_Concat([64, 64], 2), "dim must be 1"),
    (lambda: BiFPN_Concat([64, 64], "sum"), "dim must be 1"),
    (lambda: BiFPN_Concat([64, 64], 1, 0), "eps must be"),
    (lambda: BiFPN_Concat([64, 64], 1, 1e-4, -2), "gain must be a positive float .the paper's is 1.0., got -2"),
    (lambda: CoordAtt(32, 32, 32), "CoordAtt: gain must be a positive float .the paper's is 1.0., got 32"),
    (lambda: CoordAtt(64, 32, "big"), "CoordAtt: gain must be a positive float"),
    (lambda: BiFPN_Add([64, 32]), "equal channels"),
    (lambda: BiFPN_Add([64, 64], "mean"), "eps must be"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_arguments(make, message: str) -> None:
    """A wrong argument raises a ValueError that says what was expected."""
    with pytest.raises(ValueError, match=message):
        make()


def test_large_reductions_with_an_effect_are_accepted() -> None:
    """A reduction above 32 is accepted if it leaves 8 channels or more."""
    assert CoordAtt(1024, 64).conv1.out_channels == 16
    assert CoordAtt(512, 64).conv1.out_channels == 8
    assert CoordAtt(16, 32).conv1.out_channels == 8


@pytest.mark.parametrize("which", range(3))
def test_neutral_is_the_identity(which: int) -> None:
    """Made neutral, CoordAtt outputs its input, and the fusions concatenate or add their inputs unweighted."""
    block, x = blocks()[which]
    block.neutral_()
    plain = x if which == 0 else torch.cat(x, 1) if which == 1 else x[0] + x[1]
    for train in (False, True):
        torch.testing.assert_close(block.train(train)(x), plain, rtol=1e-12, atol=1e-12)
    block(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    last = ("conv_h.weight", "conv_w.weight") if which == 0 else ("weight",)
    assert all(dict(block.named_parameters())[name].grad.abs().sum() > 0 for name in last)


@pytest.mark.parametrize("which", range(3))
def test_the_gain_is_in_the_state_dict_where_it_is_not_1(which: int) -> None:
    """A gain of 1 adds no key; another is saved, and complete weights without a gain set it back to 1."""
    block, _ = blocks()[which]
    plain = copy.deepcopy(block.state_dict())
    assert "gain" not in plain
    block.gain = 2.5
    other, _ = blocks()[which]
    other.load_state_dict(nn.Sequential(block)[0].state_dict())
    assert other.gain == 2.5
    nn.Sequential(nn.Identity(), other).load_state_dict({f"1.{k}": v for k, v in plain.items()})
    assert other.gain == 1
    other.gain = 3.0
    other.load_state_dict({}, strict=False)
    assert other.gain == 3


def test_inputs_that_do_not_fit_are_named() -> None:
    """Different sizes, or one input too many, raise an error with all shapes, and the layers where known."""
    fuse = BiFPN_Concat([2, 2])
    with pytest.raises(ValueError, match=r"input 0 \(1, 2, 4, 4\), input 1 \(1, 2, 8, 8\)"):
        fuse([torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 8, 8)])
    fuse.i, fuse.f = 12, [-1, 6]
    with pytest.raises(ValueError, match=r"BiFPN_Concat \(layer 12\).*layer 11 \(1, 2, 4, 4\), layer 6 \(1, 2, 8, 8\)"):
        fuse([torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 8, 8)])
    with pytest.raises(ValueError, match="fuses 2 inputs"):
        fuse([torch.zeros(1, 2, 4, 4)] * 3)


def test_a_fusion_of_other_channels() -> None:
    """A pruned model has fewer channels than its row says; batches that differ are an error, not unwritten memory."""
    fusion = BiFPN_Concat([8, 8])
    xs = [torch.rand(1, 6, 4, 4), torch.rand(1, 8, 4, 4)]
    expected = fusion(xs).detach()
    with torch.no_grad():
        torch.testing.assert_close(fusion(xs), expected)
        with pytest.raises(RuntimeError):
            fusion([torch.rand(2, 8, 4, 4), torch.rand(1, 8, 4, 4)])


def test_a_gain_among_averaged_weights() -> None:
    """Averages of weights leave the gain out, so that all that they average is of one type; a float64 is read too."""
    attention = CoordAtt(8, gain=4.0)
    state = attention.state_dict()
    assert {x.dtype for x in state.values() if x.is_floating_point()} == {torch.float32}
    for gain in (state["gain"], torch.tensor(4.0, dtype=torch.float64)):
        other = CoordAtt(8)
        other.load_state_dict({**state, "gain": gain})
        assert other.gain == 4.0
