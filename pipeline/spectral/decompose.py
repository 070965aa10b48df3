"""Exact thin SVD of text embeddings, streamed: two passes over the file, memory of width squared.

The first pass sums the Gram matrices of all views, the second projects the rows on their right
vectors. With fewer items than dimensions the Gram matrix of the items takes their place. Singular
values come from eigenvalues in float64, so values down to about 1e-7 of the largest are resolved;
the cut-off lies above that.

Source: SpecTran (thin SVD of unit rows, not centred), AlphaFuse and WhitenRec (centred rows).
Differs: an eigendecomposition of the Gram matrix stands in the place of the SVD, the same up to
rounding; `spectrum.cutoff` says which components count as zero, of which no paper tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import ConfigError, DataError
from pipeline.tensorfile import Rows

CHUNK_BYTES = 32 << 20
"""float32 bytes per chunk; long enough for the matrix products to run at full speed."""

SMALLEST_CUTOFF = 1e-6
"""Below it the square roots of rounded eigenvalues are noise."""

SAME = 1e-6
"""Centred rows whose spread is below this share of their size differ by rounding only."""

TIE = 1e-6
"""Entries within this share of the largest count as equal when a sign is fixed; the first wins."""

PADDING = 1
"""Rows of the file before the first item."""

UNIT = ("unit", "unit_centred")
"""Views whose rows are brought to norm one (before centring)."""

CENTRED = ("centred", "unit_centred")
"""Views whose mean row is taken away."""

Advance = Callable[[int], None]


@dataclass
class Directions:
    """Sums unit rows, from which the mean cosine of all pairs follows in closed form."""

    total: np.ndarray
    count: int = 0

    def add(self, x: np.ndarray, inverse_norms: np.ndarray) -> None:
        """Add the directions of [n, H] float64 rows; inverse norms: [n], zero for zero rows."""
        self.total += inverse_norms @ x
        self.count += int((inverse_norms > 0).sum())

    def mean_cosine(self) -> float | None:
        """Mean over pairs of different non-zero rows; None with fewer than two."""
        pairs = self.count * (self.count - 1)
        return float((self.total @ self.total - self.count) / pairs) if pairs else None


@dataclass
class Basis:
    """One view's mean, singular values and right vectors; float64."""

    view: str
    num_items: int
    mean: np.ndarray
    """[H]; zero for views that are not centred."""
    s: np.ndarray
    """[R] descending."""
    v: np.ndarray
    """[H, R]; the largest absolute entry of each column is positive."""
    energy: float
    """Sum of all squared singular values, the dropped ones included."""
    directions: Directions
    zero_rows: int
    """Rows of the view without a direction; they stay zero in U."""
    u: np.ndarray | None = field(default=None, repr=False)
    """[N, R] float32 where it is known without another pass (N < H)."""
    inverse_norms: np.ndarray | None = field(default=None, repr=False)
    """[N] float64, zero for zero rows, of a view whose rows are brought to norm one."""


def decompose(
    rows: Rows, views: Sequence[str], cutoff: float, advance: Advance = lambda n: None
) -> list[Basis]:
    """Return the basis of every view from one pass over the embeddings (row 0 is padding).

    Components with singular value below cutoff * largest are dropped.
    Raises DataError when a view has no spread, ArtifactError on NaN or infinity. N H^2 + H^3, or
    N^2 H + N^3 when N < H.
    """
    if cutoff < SMALLEST_CUTOFF:
        raise ConfigError(
            f"params.yaml: spectrum.cutoff: {cutoff:g} is below what a decomposition through the "
            f"Gram matrix resolves. Set {SMALLEST_CUTOFF:g} or more."
        )
    num_items, width = rows.shape[0] - PADDING, rows.shape[1]
    if num_items < 1:
        raise DataError(f"{rows.path} holds no items. Run preprocess on data with items.")
    if num_items < width:
        return _by_items(rows, views, cutoff, advance)
    return _by_dimensions(rows, views, cutoff, advance)


def project(
    rows: Rows, bases: Sequence[Basis], advance: Advance = lambda n: None
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield (first item - 1, U of these items per view, [n, R] float32) in one more pass.

    The arrays are used again for the next items.
    """
    if all(basis.u is not None for basis in bases):
        yield 0, [basis.u for basis in bases if basis.u is not None]
        advance(bases[0].num_items)
        return
    scaled = [np.asarray(basis.v / basis.s, np.float32) for basis in bases]
    step, width = _step(rows), rows.shape[1]
    single = np.empty((step, width), np.float32)
    left = [np.empty((step, weights.shape[1]), np.float32) for weights in scaled]
    centred = any(basis.view in CENTRED for basis in bases)
    work = np.empty((step if centred else 0, width))
    # The first pass compared the bytes with their checksum and looked for NaN.
    for first, chunk in rows.chunks(step, PADDING, verify=False):
        n, start = len(chunk), first - PADDING
        for basis, weights, out in zip(bases, scaled, left, strict=True):
            part = chunk
            if basis.inverse_norms is not None:
                inverse = basis.inverse_norms[start : start + n, None]
                part = np.multiply(chunk, inverse, out=single[:n], casting="same_kind")
            if basis.view in CENTRED:
                rest = np.subtract(part, basis.mean, out=work[:n])
                squares = np.einsum("ij,ij->i", rest, rest)
                basis.directions.add(rest, reciprocal_norms(squares))
                single[:n] = rest
                part = single[:n]
            np.matmul(part, weights, out=out[:n])
        yield start, [out[:n] for out in left]
        advance(n)


# ---------------------------------------------------------------- N >= H


def _by_dimensions(
    rows: Rows, views: Sequence[str], cutoff: float, advance: Advance
) -> list[Basis]:
    from scipy.linalg.blas import dsyr, dsyrk

    num_items, width = rows.shape[0] - PADDING, rows.shape[1]
    # Fortran order, upper triangle: what BLAS updates in place.
    grams = {view: np.zeros((width, width), order="F") for view in views}
    directions = {view: Directions(np.zeros(width)) for view in views}
    shifts = {view: np.zeros(width) for view in views}
    totals = {view: np.zeros(width) for view in views}
    energy, work = 0.0, np.empty((_step(rows), width))
    inverse_norms = np.empty(num_items)
    for start, x, squares in _chunks(rows):
        energy += float(squares.sum())
        inverse = inverse_norms[start : start + len(x)]
        inverse[:] = reciprocal_norms(squares)
        for view in views:
            part = x
            if view in UNIT:
                part = np.multiply(x, inverse[:, None], out=work[: len(x)])
            if view in CENTRED:
                if start == 0:
                    # G - N mu mu^T cancels where the mean is large; near the mean it does not.
                    # Rounded to float32, so that constant rows leave exactly nothing.
                    shifts[view] = part.mean(axis=0).astype(np.float32).astype(np.float64)
                part = np.subtract(part, shifts[view], out=work[: len(x)])
                totals[view] += part.sum(axis=0)
            else:
                directions[view].add(x, inverse)
            dsyrk(1.0, part.T, beta=1.0, c=grams[view], overwrite_c=1)
        advance(len(x))
    del work
    energies = _energies(energy, inverse_norms)
    bases = []
    for view in views:
        gram, mean = grams.pop(view), np.zeros(width)
        if view in CENTRED:
            offset = totals[view] / num_items
            gram = dsyr(-num_items, offset, a=gram, overwrite_a=1)
            mean = shifts[view] + offset
        values, vectors = _eigh(gram)
        del gram
        s, kept, spread = _singular(values, cutoff, view, energies[view in UNIT], num_items)
        v = np.ascontiguousarray(vectors[:, ::-1][:, :kept])
        del vectors
        v *= column_signs(v)
        zero = num_items - directions[view].count if view == "unit" else 0
        basis = Basis(view, num_items, mean, s, v, spread, directions[view], zero)
        if view in UNIT:
            basis.inverse_norms = inverse_norms
        bases.append(basis)
    return bases


# ---------------------------------------------------------------- N < H


def _by_items(rows: Rows, views: Sequence[str], cutoff: float, advance: Advance) -> list[Basis]:
    from scipy.linalg.blas import dsyrk

    num_items, width = rows.shape[0] - PADDING, rows.shape[1]
    raw = np.empty((num_items, width))  # at most the size of the Gram matrix it replaces
    for start, x, _ in _chunks(rows):
        raw[start : start + len(x)] = x
        advance(len(x))
    squares = np.einsum("ij,ij->i", raw, raw)
    inverse_norms = reciprocal_norms(squares)
    energies = _energies(float(squares.sum()), inverse_norms)
    bases = []
    for view in views:
        mean, matrix = np.zeros(width), raw
        if view in UNIT:
            matrix = raw * inverse_norms[:, None]
        if view in CENTRED:
            shift = matrix.mean(axis=0).astype(np.float32).astype(np.float64)
            rest = matrix - shift
            offset = rest.mean(axis=0)
            matrix, mean = rest - offset, shift + offset
        directions = Directions(np.zeros(width))
        inverse = reciprocal_norms(np.einsum("ij,ij->i", matrix, matrix))
        directions.add(matrix, inverse)
        values, vectors = _eigh(dsyrk(1.0, matrix.T, trans=1))
        s, kept, spread = _singular(values, cutoff, view, energies[view in UNIT], num_items)
        u = vectors[:, ::-1][:, :kept]
        v = matrix.T @ u / s
        signs = column_signs(v)
        zero = num_items - directions.count if view == "unit" else 0
        left = np.ascontiguousarray(u * signs, np.float32)
        left[inverse == 0] = 0  # eigenvectors hold rounding there
        bases.append(Basis(view, num_items, mean, s, v * signs, spread, directions, zero, left))
    return bases


# ---------------------------------------------------------------- parts


def _step(rows: Rows) -> int:
    """Return the rows of a chunk."""
    num_items, width = rows.shape[0] - PADDING, rows.shape[1]
    return max(1, min(num_items, CHUNK_BYTES // (width * 4)))


def _chunks(rows: Rows) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (first item - 1, x [n, H] float64, squared norms [n]).

    The caller may overwrite x, which is used again: fresh pages for every chunk cost seconds.
    """
    buffer = np.empty((_step(rows), rows.shape[1]))
    for first, chunk in rows.chunks(len(buffer), PADDING):
        x = buffer[: len(chunk)]
        x[:] = chunk
        squares = np.einsum("ij,ij->i", x, x)
        if not np.isfinite(squares).all():  # squares of float32 cannot overflow float64
            row = first + int(np.flatnonzero(~np.isfinite(squares))[0])
            raise rows.fail(f"holds NaN or infinity in row {row}.")
        yield first - PADDING, x, squares


def reciprocal_norms(squares: np.ndarray) -> np.ndarray:
    """Return 1 / sqrt(squares), [n] float64, zero where a row is zero."""
    present = squares > 0
    out = np.zeros(len(squares))
    np.divide(1, np.sqrt(squares), where=present, out=out)
    return out


def _energies(raw: float, inverse_norms: np.ndarray) -> tuple[float, float]:
    """Return the sum of squares of the rows as they are, and of those of norm one."""
    return raw, float((inverse_norms > 0).sum())


def _eigh(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, ascending, and vectors of a matrix given by its upper triangle; overwrites it.

    Divide and conquer: more than three times as fast as the library's default at width 2,048.
    """
    from scipy.linalg import eigh

    values, vectors = eigh(gram, lower=False, overwrite_a=True, check_finite=False, driver="evd")
    return values, vectors


def _singular(
    values: np.ndarray, cutoff: float, view: str, energy: float, num_items: int
) -> tuple[np.ndarray, int, float]:
    """Return singular values kept, descending, their number, and the sum of all their squares.

    energy: sum of squares of the view's rows before centring. Raises DataError when nothing is
    left of them.
    """
    squares = np.clip(values[::-1], 0, None)
    if energy == 0:
        raise DataError(
            f"spectrum: all embeddings of the {num_items} items are zero. "
            f"Check the encoder, or the template and the item text."
        )
    if view in CENTRED and num_items == 1:
        raise DataError(
            "spectrum: the catalogue has one item, of which nothing is left after centring, and "
            "ranking needs at least two. Use data with more items, or lower preprocess.core of "
            "this data set."
        )
    if view in CENTRED and squares[0] <= SAME**2 * energy:
        raise DataError(
            f"spectrum: the embeddings of the {num_items} items are all the same, so nothing is "
            f"left after centring. At least two items need different text: check the template, "
            f"or remove `{view}` from spectrum.views, and from grid the methods that read it "
            f"(`spectran check` then names them)."
        )
    s = np.sqrt(squares)
    kept = int((s >= cutoff * s[0]).sum())
    return s[:kept], kept, float(squares.sum())


def column_signs(v: np.ndarray) -> np.ndarray:
    """Return [R] of 1 or -1 that make the largest absolute entry of each column positive.

    Of entries equal up to rounding the first decides, so that the last bit cannot flip a column.
    """
    sizes = np.abs(v)
    first = np.argmax(sizes >= (1 - TIE) * sizes.max(axis=0), axis=0)
    signs: np.ndarray = np.where(v[first, np.arange(v.shape[1])] < 0, -1.0, 1.0)
    return signs
