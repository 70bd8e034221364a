"""Real handwritten digits, which scikit-learn ships: nothing is downloaded."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor


def digits(batch_size: int = 64) -> list[tuple[Tensor, Tensor]]:
    """Batches of images `[batch_size, 1, 28, 28]` in 0..1 and their labels `[batch_size]`.

    The 1,797 scans of 8x8 pixels are scaled up to 28x28; the last incomplete batch is left out.
    """
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    images = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    labels = torch.tensor(found.target)
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return [(x, y) for x, y in batches if len(y) == batch_size]
