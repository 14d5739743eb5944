"""The colours of labels: as many as there are labels, each as far from the others as can be.

Owns no library; knows nothing of labels but their number.

The first eight are those of Okabe and Ito (2008), chosen for colour-blind readers. Each further one
is the colour of a grid that lies furthest from all before it, and from white and the greys, in
OKLab (Ottosson 2020), which is made so that equal distances look equal; the nearest counts, seen
with normal vision, without green and without red receptors (Machado et al. 2009,
doi:10.1109/TVCG.2009.113). No palette keeps thirty labels apart for every eye: hence the numbers.

Shape suffixes: P colours, C colours of the grid, 3 red, green and blue (0 to 1).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OKABE_ITO = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167),
    (86, 180, 233), (213, 94, 0), (240, 228, 66), (34, 34, 34),
)  # fmt: skip
#: Of cells without a label of their own; no colour comes near these.
GREY, MISSING_GREY, OTHER_GREY = "#C8C8C8", "#A6A6A6", "#828282"
_WHITE = "#FFFFFF"
#: Steps of the grid in red, green and blue; lightness and chroma of what can be told from the
#: background, from black and from grey.
_STEPS, _LIGHTNESS, _LEAST_CHROMA = 17, (0.35, 0.88), 0.06
#: Distances as the colour-blind see them are smaller, and count so much more.
_WEIGHTS = (1.0, 1.5, 1.5)

_RGB_TO_LMS = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
_LMS_TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip
#: Linear red, green and blue as they are, and as seen without green and without red receptors.
_SEEN = (
    np.eye(3),
    np.array([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    np.array([
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
)  # fmt: skip


def colour(i: int) -> tuple[float, float, float]:
    """Return red, green and blue (0 to 1) of the i-th label; no two are the same.

    Examples
    --------
    >>> len({colour(i) for i in range(100)})
    100
    """
    size = 32
    while size <= i:
        size *= 2
    red, green, blue = _palette(size)[i]
    return float(red), float(green), float(blue)


def perceived(rgb_P3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return colours in OKLab for three ways of seeing: normal, without green, without red; 3xPx3.

    Euclidean distances are differences: .02 is about the least that can be seen.
    """
    linear_P3 = np.where(rgb_P3 <= 0.04045, rgb_P3 / 12.92, ((rgb_P3 + 0.055) / 1.055) ** 2.4)
    seen_3P3 = np.stack([np.clip(linear_P3 @ matrix.T, 0, 1) for matrix in _SEEN])
    return np.asarray(np.cbrt(seen_3P3 @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T)


@functools.cache
def _palette(size: int) -> NDArray[np.float64]:
    """Return `size` colours; a longer palette begins with a shorter one."""
    axis = np.linspace(0, 1, _STEPS)
    rgb_C3 = np.array(np.meshgrid(axis, axis, axis)).reshape(3, -1).T
    lightness_C, *chroma_2C = perceived(rgb_C3)[0].T
    low, high = _LIGHTNESS
    clear_C = (low < lightness_C) & (lightness_C < high) & (np.hypot(*chroma_2C) > _LEAST_CHROMA)
    rgb_C3 = rgb_C3[clear_C]
    seen_3C3 = perceived(rgb_C3)
    first_P3 = np.array(_OKABE_ITO) / 255
    avoided_P3 = [_rgb(name) for name in (_WHITE, GREY, MISSING_GREY, OTHER_GREY)]
    nearest_C = np.full(len(rgb_C3), np.inf)
    for seen_33 in perceived(np.concatenate([first_P3, avoided_P3])).transpose(1, 0, 2):
        nearest_C = np.minimum(nearest_C, _distances(seen_3C3, seen_33))
    chosen = []
    for _ in range(size - len(first_P3)):
        chosen.append(int(nearest_C.argmax()))
        nearest_C = np.minimum(nearest_C, _distances(seen_3C3, seen_3C3[:, chosen[-1]]))
    return np.concatenate([first_P3, rgb_C3[chosen]])


def _distances(seen_3C3: NDArray[np.float64], seen_33: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far each colour is from one, in the way of seeing where it is least."""
    apart_3C = np.linalg.norm(seen_3C3 - seen_33[:, None], axis=2)
    return np.asarray((apart_3C * np.array(_WEIGHTS)[:, None]).min(axis=0))


def _rgb(name: str) -> NDArray[np.float64]:
    return np.array([int(name[at : at + 2], 16) for at in (1, 3, 5)]) / 255
