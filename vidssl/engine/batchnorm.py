"""Batch norm over the samples of all processes, so that how many there are changes no result.

torch's own (`nn.SyncBatchNorm`, for GPUs) refuses tensors of a CPU; there a class of ours does the same arithmetic.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..collective import gather_rows, world_size


class SyncedBatchNorm(_BatchNorm):
    """`nn.BatchNorm*d` with mean and variance over all processes while it trains; on one process it is that.

    Each process sends mean, sum of squared deviations and count (Chan, Golub, LeVeque, "Algorithms for Computing the
    Sample Variance", The American Statistician 1983): sums of squares would lose digits.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm needs [N, C, ...], got a tensor of shape {list(input.shape)}")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        flat_CN = input.transpose(0, 1).flatten(1).float()
        count = flat_CN.new_full((1,), flat_CN.shape[1])
        own_mean_C = flat_CN.mean(1)
        own_squares_C = (flat_CN - own_mean_C[:, None]).square().sum(1)
        every, _ = gather_rows(torch.cat([count, own_mean_C, own_squares_C])[None])
        count_R1, mean_RC, squares_RC = every.split([1, self.num_features, self.num_features], 1)
        total = count_R1.sum()
        mean_C = (count_R1 * mean_RC).sum(0) / total
        squares_C = (squares_RC + count_R1 * (mean_RC - mean_C).square()).sum(0)
        self._remember(mean_C.detach(), (squares_C / (total - 1)).detach())
        scale_C = (squares_C / total + self.eps).rsqrt()
        if self.weight is not None:
            scale_C = scale_C * self.weight
        shift_C = -mean_C * scale_C
        if self.bias is not None:
            shift_C = shift_C + self.bias
        shape = (1, -1, *[1] * (input.dim() - 2))
        return (input * scale_C.view(shape) + shift_C.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean_C: torch.Tensor, variance_C: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance_C.to(self.running_var.dtype), share)


def synchronise(module: nn.Module, device: torch.device) -> None:
    """Makes every batch norm within the module one over all processes; parameters and buffers stay what they are."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return
    for child in module.modules():
        if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            child.__class__ = SyncedBatchNorm  # they differ in their check of dimensions only
