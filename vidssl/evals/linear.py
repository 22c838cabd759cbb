"""Linear probe: how well a linear classifier reads the classes from frozen features.

The backbone is frozen, batch norm in eval mode, crops are central; so a training clip's feature never changes and is
computed once. The classifier is multinomial logistic regression on features standardised by the training set's mean
and deviation (a batch norm without parameters in front of the classifier), fitted to convergence with L-BFGS: a convex
problem with one solution, no learning rate and no seed. Test: mean softmax over the clips of a video.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def probe(
    train_VKD: np.ndarray, train_labels: np.ndarray, test_VKD: np.ndarray, num_classes: int, weight_decay: float
) -> np.ndarray:
    """Class probabilities of the test videos, float64 [V, classes].

    Args:
        train_VKD: float [V, K clips, D]; every clip is a training sample with its video's label, int [V].
        weight_decay: factor of half the squared norm of the weights, beside the mean cross-entropy.
    """
    train = torch.as_tensor(train_VKD, dtype=torch.float64)
    flat = train.flatten(0, 1)
    mean, deviation = flat.mean(0), flat.std(0).clamp_min(1e-6)
    x = (flat - mean) / deviation
    y = torch.as_tensor(train_labels).repeat_interleave(train.shape[1])
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y) + 0.5 * weight_decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        logits = ((torch.as_tensor(test_VKD, dtype=torch.float64) - mean) / deviation) @ weight.T + bias
        return logits.softmax(dim=-1).mean(dim=1).numpy()
