"""Item coordinates in the leading spectral directions."""

from __future__ import annotations

import numpy as np

from pipeline.errors import DataError
from pipeline.values import Spectrum


def leading(spectrum: Spectrum, width: int, *, standardize: bool) -> np.ndarray:
    """Return [N, width] float32: u * s of the first `width` components.

    standardize: unit variance in every column instead, sqrt(N - 1) * u (the spectrum is centred).
    Raises DataError when the spectrum has fewer components than asked for.
    """
    components = spectrum.s.shape[0]
    if components < width:
        raise DataError(
            f"the {spectrum.view} spectrum has {components} components, train.width asks for "
            f"{width}. Use a smaller train.width, a wider encoder or a smaller spectrum.cutoff."
        )
    u = spectrum.u[:, :width]
    if standardize:
        return np.ascontiguousarray(u * np.float32(np.sqrt(len(u) - 1)))
    return np.ascontiguousarray(u * spectrum.s[:width])
