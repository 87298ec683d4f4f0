"""Samples of ours, for names that PyTorch publishes none of: ``(args, kwargs, inputs, input_kwargs)`` of a Sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn, randn, tensor

Case = tuple[Any, ...]
F = nn.functional


def _built(inputs: tuple[Any, ...], *args: Any, **kwargs: Any) -> Case:
    """A module built with the arguments and called with ``inputs``."""
    return args, kwargs, inputs, {}


def _called(*args: Any, **kwargs: Any) -> Case:
    return args, kwargs


def _pooled(dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    pool = getattr(F, f"max_pool{dims}d")
    return pool(randn(2, 3, *[6] * dims), 2, return_indices=True)


def _indices(dims: int) -> Callable[[], list[Case]]:
    x = (2, 3, *[6] * dims)
    return lambda: [_called(randn(x), 2), _called(randn(x), 3, 2, 1, ceil_mode=True), _called(randn(x[1:]), 2, 1, dilation=2)]


def _adaptive(dims: int) -> Callable[[], list[Case]]:
    x = (2, 3, *[6] * dims)
    return lambda: [_called(randn(x), 4), _called(randn(x), [5] * dims), _called(randn(x[1:]), 1)]


def _lp(dims: int) -> Callable[[], list[Case]]:
    x = (2, 3, *[6] * dims)
    return lambda: [_called(randn(x), 2, 2), _called(randn(x), 3.0, 3, 2, ceil_mode=True), _called(randn(x).abs(), 1.5, 2)]


def _dropout(*shapes: tuple[int, ...]) -> Callable[[], list[Case]]:
    return lambda: [_built((randn(s),), p) for p in (0.0, 0.5, 1.0) for s in shapes]


def _drop(*shapes: tuple[int, ...]) -> Callable[[], list[Case]]:
    return lambda: [_called(randn(s), p, training) for p in (0.0, 0.5, 1.0) for s in shapes for training in (True, False)]


def _lazy_norm(dims: int) -> Callable[[], list[Case]]:
    x = (3, 4, *[5] * dims)
    return lambda: [_built((randn(x),)), _built((randn(x),), affine=False), _built((randn(x),), eps=1e-3, momentum=0.3)]


def _stack(kind: type, *inputs: tuple[int, ...], **options: Any) -> Callable[[], list[Case]]:
    def make() -> list[Case]:
        layer = kind(8, 2, 16, dropout=0.0, batch_first=True, **options)
        return [_built(tuple(map(randn, inputs)), layer, 2), _built(tuple(map(randn, inputs)), layer, 2, nn.LayerNorm(8))]

    return make


def _inplace(*args: Any, **kwargs: Any) -> Callable[[], list[Case]]:
    # torch refuses to change a leaf that needs gradients: no gradients here
    return lambda: [_called((randn(3, 4) * 3).int().float(), *args, **kwargs)]


CASES: dict[str, Callable[[], list[Case]]] = {
    "nn.AdaptiveLogSoftmaxWithLoss": lambda: [
        _built((randn(4, 16), tensor([1, 5, 9, 2])), 16, 12, [4, 8]),
        _built((randn(4, 16), tensor([0, 11, 3, 3])), 16, 12, [3], 2.0, True),
        _built((randn(16), tensor(7)), 16, 12, [4, 8], head_bias=True),
    ],
    "nn.AlphaDropout": _dropout((3, 4)),
    "nn.ChannelShuffle": lambda: [_built((randn(2, 6, 3, 2),), 3), _built((randn(1, 4, 5),), 2)],
    "nn.CosineSimilarity": lambda: [_built((randn(3, 5), randn(3, 5))), _built((randn(3, 1, 5), randn(4, 5)), -1, 1e-4)],
    "nn.CrossMapLRN2d": lambda: [_built((randn(2, 6, 3, 3),), 3), _built((randn(2, 6, 3, 3),), 4, 1e-2, 0.5, 2)],
    "nn.Dropout": _dropout((3, 4)),
    "nn.Dropout1d": _dropout((3, 4, 5), (4, 5)),
    "nn.Dropout2d": _dropout((3, 4, 5, 2)),
    "nn.Dropout3d": _dropout((3, 4, 5, 2, 2), (4, 5, 2, 2)),
    "nn.FeatureAlphaDropout": _dropout((3, 4, 5, 2)),
    "nn.EmbeddingBag": lambda: [
        _built((tensor([1, 2, 4, 5, 4, 3]), tensor([0, 3])), 10, 3),
        _built((tensor([[1, 2], [4, 0]]),), 10, 3, mode="sum", padding_idx=0),
        _built((tensor([1, 2, 4, 5, 4, 3]), tensor([0, 4, 4, 6])), 10, 3, mode="max", include_last_offset=True),
        _built((tensor([1, 2, 4, 5]), tensor([0, 2]), randn(4)), 10, 3, mode="sum"),
    ],
    "nn.Flatten": lambda: [_built((randn(2, 3, 4),)), _built((randn(2, 3, 4, 5),), 2, 3), _built((randn(2, 3, 4),), 0, -2)],
    "nn.Unflatten": lambda: [_built((randn(2, 12),), 1, (3, 4)), _built((randn(2, 12, 2),), -2, (2, -1))],
    "nn.Fold": lambda: [
        _built((randn(2, 12, 12),), (4, 5), (2, 2)),
        _built((randn(8, 4),), 4, 2, stride=2),
        _built((randn(1, 18, 9),), (6, 6), 3, 2, 1, 2),
    ],
    "nn.Unfold": lambda: [_built((randn(2, 3, 4, 5),), (2, 3)), _built((randn(1, 2, 6, 6),), 3, 2, 1, 2)],
    "nn.Hardsigmoid": lambda: [_built((randn(3, 4) * 4,)), _built((randn(3),), True)],
    "nn.Identity": lambda: [_built((randn(3, 4),)), _built((randn(3, 4),), 54, unused=True)],
    "nn.LazyLinear": lambda: [_built((randn(3, 4),), 5), _built((randn(2, 3, 4),), 5, bias=False)],
    **{f"nn.LazyBatchNorm{d}d": _lazy_norm(d) for d in (1, 2, 3)},
    **{f"nn.LazyInstanceNorm{d}d": _lazy_norm(d) for d in (1, 2, 3)},
    **{
        f"nn.MaxUnpool{d}d": lambda d=d: [_built(_pooled(d), 2), _built(_pooled(d), 2, stride=2, padding=0)] for d in (1, 2, 3)
    },
    "nn.NLLLoss2d": lambda: [_built((randn(2, 3, 4, 4).log_softmax(1), torch.randint(0, 3, (2, 4, 4))))],
    "nn.PairwiseDistance": lambda: [
        _built((randn(3, 5), randn(3, 5))),
        _built((randn(3, 5), randn(3, 5)), 1.0, 1e-4, True),
        _built((randn(5), randn(3, 5)), float("inf")),
    ],
    "nn.PixelShuffle": lambda: [_built((randn(2, 8, 3, 2),), 2), _built((randn(9, 2, 2),), 3)],
    "nn.PixelUnshuffle": lambda: [_built((randn(2, 2, 4, 6),), 2), _built((randn(1, 3, 3),), 3)],
    "nn.RReLU": lambda: [_built((randn(3, 4),)), _built((randn(3, 4),), 0.2, 0.2)],
    "nn.TransformerDecoder": _stack(nn.TransformerDecoderLayer, (2, 5, 8), (2, 4, 8)),
    "nn.TransformerEncoder": _stack(nn.TransformerEncoderLayer, (2, 5, 8), norm_first=True),
    "nn.TripletMarginLoss": lambda: [
        _built((randn(3, 5), randn(3, 5), randn(3, 5)), 1.0, 2.0, 1e-6, swap)
        for swap in (False, True)
    ],
    "nn.TripletMarginWithDistanceLoss": lambda: [
        _built((randn(3, 5), randn(3, 5), randn(3, 5))),
        _built((randn(3, 5), randn(3, 5), randn(3, 5)), distance_function=nn.PairwiseDistance(1.0), margin=0.3, swap=True, reduction="sum"),
    ],
    "nn.Upsample": lambda: [
        _built((randn(1, 2, 3),), 5),
        _built((randn(1, 2, 3, 4),), scale_factor=2, mode="bilinear", align_corners=True),
        _built((randn(1, 2, 3, 4),), scale_factor=(1.5, 0.7), mode="bicubic"),
        _built((randn(1, 2, 3, 4, 2),), scale_factor=1.7, mode="trilinear", recompute_scale_factor=True),
    ],
    "nn.UpsamplingBilinear2d": lambda: [_built((randn(1, 2, 3, 4),), scale_factor=2), _built((randn(1, 2, 3, 4),), (5, 3))],
    "nn.UpsamplingNearest2d": lambda: [_built((randn(1, 2, 3, 4),), scale_factor=2), _built((randn(1, 2, 3, 4),), (5, 3))],
    **{f"nn.functional.max_pool{d}d_with_indices": _indices(d) for d in (1, 2, 3)},
    **{f"nn.functional.adaptive_max_pool{d}d_with_indices": _adaptive(d) for d in (1, 2, 3)},
    **{f"nn.functional.lp_pool{d}d": _lp(d) for d in (1, 2, 3)},
    "nn.functional.fractional_max_pool2d_with_indices": lambda: [_called(randn(2, 3, 8, 8), 2, output_size=(4, 5))],
    "nn.functional.fractional_max_pool3d_with_indices": lambda: [_called(randn(2, 3, 8, 8, 8), 2, output_ratio=(0.5, 0.5, 0.6))],
    "nn.functional.affine_grid": lambda: [
        _called(randn(2, 2, 3), [2, 3, 4, 5], align_corners=False),
        _called(randn(2, 3, 4), [2, 3, 4, 5, 2], align_corners=True),
        _called(randn(1, 2, 3), torch.Size((1, 1, 1, 4)), True),
    ],
    "nn.functional.conv_tbc": lambda: [_called(randn(6, 2, 3), randn(2, 3, 4), randn(4), 1), _called(randn(6, 2, 3), randn(3, 3, 4), randn(4))],
    "nn.functional.dropout1d": _drop((3, 4, 5), (4, 5)),
    "nn.functional.fold": lambda: [
        _called(randn(2, 12, 12), (4, 5), (2, 2)),
        _called(randn(8, 4), 4, 2, stride=2),
        _called(randn(1, 18, 9), (6, 6), 3, 2, 1, 2),
    ],
    "nn.functional.gumbel_softmax": lambda: [_called(randn(3, 4)), _called(randn(3, 4), 0.5, True, dim=0)],
    "nn.functional.native_channel_shuffle": lambda: [_called(randn(2, 6, 3, 2), 3)],
    "nn.functional.one_hot": lambda: [_called(tensor([0, 2]), 5), _called(tensor([[0, 2], [1, 1]])), _called(tensor(1), num_classes=3)],
    "nn.functional.relu_": _inplace(),
    "nn.functional.elu_": _inplace(0.5),
    "nn.functional.celu_": _inplace(0.5),
    "nn.functional.selu_": _inplace(),
    "nn.functional.leaky_relu_": _inplace(0.2),
    "nn.functional.hardtanh_": _inplace(-0.5, 2.0),
    "nn.functional.rrelu_": _inplace(0.2, 0.2),
    "nn.functional.threshold_": _inplace(0.5, -1.0),
    "nn.functional.upsample": lambda: [
        _called(randn(1, 2, 3), 5),
        _called(randn(1, 2, 3, 4), None, 2, "bilinear", True),
    ],
}  # fmt: skip
