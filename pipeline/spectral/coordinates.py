"""Item coordinates in the leading spectral directions."""

from __future__ import annotations

import numpy as np

from pipeline.errors import ConfigError, DataError
from pipeline.spectral.decompose import CENTRED
from pipeline.values import Spectrum


def leading(
    spectrum: Spectrum,
    width: int,
    *,
    standardize: bool,
    key: str = "train.width",
    whole: int | None = None,
) -> np.ndarray:
    """Return [N, width] float32: u * s of the first `width` components.

    standardize: unit variance in every column instead, sqrt(N - 1) * u (the spectrum is centred).
    key: where the width of the item vectors is set; whole: its value, where `width` is a part.
    Raises ConfigError when the encoder has fewer dimensions than are asked for, DataError when the
    items have no more components.
    """
    components = spectrum.s.shape[0]
    if components < width:
        mistaken = ConfigError if len(spectrum.v) < width else DataError
        raise mistaken(_too_few(spectrum, width, key, whole or width))
    u = spectrum.u[:, :width]
    if standardize:
        return np.ascontiguousarray(u * np.float32(np.sqrt(len(u) - 1)))
    return np.ascontiguousarray(u * spectrum.s[:width])


def _too_few(spectrum: Spectrum, width: int, key: str, whole: int) -> str:
    """Say how many components there are, what bounds them, and what helps."""
    (items, components), dimensions = spectrum.u.shape, len(spectrum.v)
    asked = f"{key} asks for {width}" if width == whole else f"{width} of {key} {whole} need one"
    if components == items - (spectrum.view in CENTRED):
        why, else_ = f"{items} items have no more", "use more items"
    elif components == dimensions:
        why, else_ = f"the encoder has {dimensions} dimensions", "use a wider encoder"
    else:
        why = "items with equal text add none, and spectrum.cutoff drops weak ones"
        else_ = "use text that tells more items apart, or lower the cutoff"
    return (
        f"the {spectrum.view} spectrum has {components} components, {asked}: {why}. "
        f"Set {key} to at most {components * whole // width}, or {else_}."
    )
