"""Do generated images show the class that was asked for? Two judges that never saw them.

Shapes: `N` images, `H W C` pixels, `K` classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """Fraction of images judged to be of the class asked for: overall, and by class.

    A class that nothing was asked of has None.
    """

    overall: float
    by_class: list[float | None]


def agreement(predicted: Labels, requested: Labels, num_classes: int) -> Agreement:
    """Compare predicted with requested classes, both int64 [N]."""
    right = predicted == requested
    by_class: list[float | None] = []
    for label in range(num_classes):
        asked = requested == label
        by_class.append(float(right[asked].mean()) if asked.any() else None)
    return Agreement(float(right.mean()), by_class)


def svc_predictions(
    train_images: Images,
    train_labels: Labels,
    images: Images,
    *,
    gamma: float,
    penalty: float,
    pixel_max: float,
    most: int | None = None,
) -> Labels:
    """Classes int64 [N] that scikit-learn's SVC, trained on real raw pixels, sees in `images`.

    Args:
        train_images: real images uint8 [M, H, W, C].
        train_labels: their classes int64 [M].
        images: uint8 [N, H, W, C].
        gamma: width of the radial kernel, for pixels from 0 to `pixel_max`.
        penalty: scikit-learn's C.
        pixel_max: what 255 becomes (16 for scikit-learn's digits).
        most: real images that it is fitted on, the same ones every time; None: all. Fitting takes
            time with the square of their number.
    """
    from sklearn.svm import SVC

    def rows(x: Images) -> NDArray[np.float64]:
        return x.reshape(len(x), -1).astype(np.float64) * (pixel_max / 255.0)

    if most is not None and most < len(train_images):
        chosen = np.random.default_rng(0).permutation(len(train_images))[:most]
        train_images, train_labels = train_images[chosen], train_labels[chosen]
    judge = SVC(gamma=gamma, C=penalty).fit(rows(train_images), train_labels)
    return judge.predict(rows(images)).astype(np.int64)
