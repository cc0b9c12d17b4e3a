"""Layers of one pixel after each other, on the CPU in the cache: some pixels at a time go through all of them.

Layer by layer an image passes through memory once a layer, which takes longer than what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geosr.methods import compiled


class Layer(NamedTuple):
    """A layer with weights (T * outputs, inputs, 1, 1) and biases (T * outputs), those of all tiles after each other.

    Where `relu`, what is negative becomes zero; where `residual`, what went into the layer before is added.
    """

    weight: Tensor
    bias: Tensor
    relu: bool = False
    residual: bool = False


def supports(images: Sequence[Tensor], layers: Sequence[Layer]) -> bool:
    """Whether there are kernels for such images and layers."""
    return compiled.supports_chain(images, _plan(images, layers))


def chain(images: Sequence[Tensor], layers: Sequence[Layer]) -> Tensor:
    """Pass one or two images, their features side by side, through all layers; only where it `supports` them.

    Args:
        images: each (T, C, H, W).
        layers: the first has as many inputs as the images have features.

    Returns:
        (T, outputs, H, W), differentiable once in weights and biases, and in images of more than one feature.
    """
    tiles, _, height, width = images[0].shape
    parameters = torch.cat([part.reshape(tiles, -1) for layer in layers for part in (layer.weight, layer.bias)], 1)
    pixels = [image.permute(0, 2, 3, 1).flatten(1, 2) for image in images]
    out = cast(Tensor, _Chain.apply(_plan(images, layers), parameters, *pixels))  # type: ignore[no-untyped-call]
    return out.view(tiles, height, width, -1).permute(0, 3, 1, 2)


def _plan(images: Sequence[Tensor], layers: Sequence[Layer]) -> compiled.Chain:
    features = tuple(image.shape[1] for image in images)
    widths = tuple(layer.bias.shape[0] // len(images[0]) for layer in layers)
    kinds = (compiled.Chain.RECTIFIED * layer.relu + compiled.Chain.RESIDUAL * layer.residual for layer in layers)
    return compiled.Chain(features, (sum(features), *widths), tuple(kinds))


class _Chain(torch.autograd.Function):
    """Only the images and parameters are kept for the backward pass, which computes all layers again."""

    @staticmethod
    def forward(ctx: Any, plan: compiled.Chain, parameters: Tensor, *pixels: Tensor) -> Tensor:
        ctx.plan, pixels = plan, tuple(image.contiguous() for image in pixels)
        ctx.save_for_backward(parameters, *pixels)
        return plan.forward(pixels, parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parameters, *pixels = ctx.saved_tensors
        grads, gradients = ctx.plan.backward(pixels, parameters, grad.contiguous())
        return None, gradients, *grads
