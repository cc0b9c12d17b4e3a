"""A convolution of several images at once, each with weights of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from geosr.methods import gpu_kernels


def convolve(images: Tensor, weight: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    """Convolve each image with its own kernels, zeros around it; then maybe a ReLU.

    Args:
        images: (T, inputs, H, W).
        weight: (T * outputs, inputs, k, k), k odd: the weights of all images follow each other.
        bias: (T * outputs).
        relu: whether what is negative becomes zero.

    Returns:
        (T, outputs, H, W), differentiable once in images, weight and bias.
    """
    fused = _fused() if images.device.type == "cuda" else None
    if fused and fused.supports(images, weight, len(images)):
        return _in_one(fused.Convolution.apply, images, weight, bias, relu)
    if weight.shape[2] == 1:
        return _product(images, weight, bias, relu)
    if len(images) == 1:
        return _activate(F.conv2d(images, weight, bias, padding=weight.shape[2] // 2), relu)
    joined = images.reshape(1, -1, *images.shape[2:])
    out = F.conv2d(joined, weight, bias, padding=weight.shape[2] // 2, groups=len(images))
    return _activate(out, relu).reshape(len(images), -1, *images.shape[2:])


def _fused() -> Any:
    """The module of the GPU's kernels; None where they cannot be used."""
    if gpu_kernels.missing():
        return None
    from geosr.methods import convolution_triton

    return convolution_triton


def _in_one(apply: Callable[..., Tensor], images: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """By the fused kernels, whose channels are last."""
    last, tiles = weight.permute(0, 2, 3, 1), len(images)
    kernels, biases = last.reshape(tiles, -1, *last.shape[1:]), bias.reshape(tiles, -1)
    return apply(images.permute(0, 2, 3, 1), kernels, biases, relu).permute(0, 3, 1, 2)


def _product(images: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """A kernel of one pixel: a product of matrices for each image, channels last."""
    tiles = len(images)
    pixels = images.permute(0, 2, 3, 1).flatten(1, 2)
    factors = weight.reshape(tiles, -1, images.shape[1]).transpose(1, 2)
    out = _activate(torch.baddbmm(bias.reshape(tiles, 1, -1), pixels, factors), relu)
    return out.reshape(tiles, *images.shape[2:], -1).permute(0, 3, 1, 2)


def _activate(x: Tensor, relu: bool) -> Tensor:
    return F.relu_(x) if relu else x
