"""PyTorch: forward-mode derivatives for the cost of two forward passes."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from keras_meanflow.backend.scopes import differentiating

_BILINEAR = {
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.Tensor.__rmatmul__,
    torch.bmm,
    torch.mm,
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
}
_FACTORS = ("input", "self"), ("weight", "other", "mat2")  # their names in _BILINEAR


class _SkipZeroTangents(TorchFunctionMode):
    """Products of a dual tensor and a plain weight: two products, not three.

    PyTorch's rule also multiplies by the weight's tangent, which is a matrix of zeros.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in _BILINEAR:
            return func(*args, **kwargs)
        args, kwargs = _positional(args, kwargs)
        if len(args) < 2:
            return func(*args, **kwargs)
        left, tangent = forward_ad.unpack_dual(args[0])
        right = args[1]
        if tangent is None or forward_ad.unpack_dual(right).tangent is not None:
            return func(*args, **kwargs)
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        if bias is not None and forward_ad.unpack_dual(bias).tangent is not None:
            return func(*args, **kwargs)
        without_bias = {k: v for k, v in kwargs.items() if k != "bias"}
        rest = (None, *args[3:]) if len(args) > 2 else ()
        with torch.no_grad():
            tangent = func(tangent, right, *rest, **without_bias)
        return forward_ad.make_dual(func(left, right, *args[2:], **kwargs), tangent)


def _positional(args, kwargs):
    """The arguments of a product with both factors by position, if their names are known."""
    args, kwargs = list(args), dict(kwargs)
    for place, names in enumerate(_FACTORS):
        given = [name for name in names if name in kwargs]
        if len(args) == place and given:
            args.append(kwargs.pop(given[0]))
    return tuple(args), kwargs


class _NoGradientOfTangents(_SkipZeroTangents):
    """Also cuts the graph of each function's tangent, so that its memory is freed."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs)
        return tree_map(_without_gradient_of_tangent, out)


def _without_gradient_of_tangent(value):
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        return value
    primal, tangent = forward_ad.unpack_dual(value)
    if tangent is None or not tangent.requires_grad:
        return value
    return forward_ad.make_dual(primal, tangent.detach())


def jvp(
    fn: Callable, primals: Sequence[torch.Tensor], tangents: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`fn(*primals)` and its directional derivative along `tangents`, without gradient.

    Fused attention has no forward-mode rule (pytorch/pytorch#128971): the math kernel runs here.
    """
    with torch.no_grad():
        return _jvp(fn, primals, tangents, _SkipZeroTangents())


def jvp_with_gradient(
    fn: Callable, primals: Sequence[torch.Tensor], tangents: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `jvp`; gradients flow through `fn(*primals)`, but not through the derivative."""
    out, tangent = _jvp(fn, primals, tangents, _NoGradientOfTangents())
    return out, tangent.detach()


def _jvp(fn, primals, tangents, mode):
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        duals = [
            forward_ad.make_dual(primal, tangent.to(primal.dtype))
            for primal, tangent in zip(primals, tangents, strict=True)
        ]
        with mode, differentiating():
            out = fn(*duals)
        primal, tangent = forward_ad.unpack_dual(out)
        return primal.clone(), torch.zeros_like(primal) if tangent is None else tangent.clone()
