"""Estimators of tables with columns of mixed kinds: reading them, and answering in their kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from minorant.estimators import _in_chunks, _validation
from minorant.estimators._mixture import Given, LikelihoodEstimator, of_chunks
from minorant.estimators._validation import Rows, Values, as_matrix, as_weights

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from minorant.data.columns import Columns
    from minorant.data.tables import NamedMatrix
    from minorant.result import Fit

Cells = Any  # what `minorant.data.columns.read` takes: a frame, a mapping of columns or an array


class TableEstimator(LikelihoodEstimator):
    """The base of the mixture estimators that read text, truth and numbers; `columns_` says how."""

    handle_unknown: str

    columns_: Columns
    _columns: Columns
    _container: Any

    def _overrides(self, names: tuple[str, ...]) -> Mapping[Any, str]:
        """Return the component of each column that is not to be inferred."""
        raise TypeError(f"{type(self).__name__} must say how it describes columns.")

    def _begin(self, X: Rows, sample_weight: Values) -> tuple[np.ndarray, np.ndarray | None]:
        from minorant.data.columns import infer, read

        self._validate_params()
        cells = self._cells(X, reset=True)
        names, columns = read(cells)
        weights = as_weights(sample_weight, len(columns[0]))
        names = names or tuple(f"column {j}" for j in range(len(columns)))
        self._columns = infer(cells, self._overrides(names), weights)
        self._container = _kind_of(cells)
        return self._encoded(cells, self._columns, "missing"), weights

    def _chunks(self, X: Rows, reset: bool, **roles: Values) -> Any:
        """Return rows out of memory with their categories as codes; `fit` finds them in a pass."""
        from minorant.data.coding import codes_of, infer_chunks

        found = _in_chunks.opened(self, X, reset, text=True, **roles)
        if reset:
            self._columns = infer_chunks(found, self._overrides(found.names))
            self._container = "mapping"
            return found.coded(codes_of(self._columns, "missing"))  # those of rows of no weight
        return found.coded(codes_of(self.columns_, self.handle_unknown))

    def _climb_on(self, columns: Columns, chunks: Any, checkpoint: Any) -> Fit:
        """Return the climb on rows out of memory, their columns known and read as numbers."""
        self._validate_params()
        self._columns = columns
        return self._climb(of_chunks(chunks), checkpoint)

    def _rows(self, X: Rows) -> np.ndarray:
        self._check_fitted()
        return self._encoded(self._cells(X, reset=False), self.columns_, self.handle_unknown)

    def _encoded(self, cells: Cells, columns: Columns, unknown: str) -> np.ndarray:
        rows = columns.encode(cells, unknown)
        return rows.astype(np.float32) if getattr(cells, "dtype", None) == np.float32 else rows

    def _named(self, rows: np.ndarray) -> NamedMatrix:
        from minorant.data.tables import NamedMatrix

        return NamedMatrix(rows, self._columns.names)

    def _publish(self, answer: Fit, given: Given) -> None:
        self.columns_ = self._columns
        super()._publish(answer, given)

    def _cells(self, X: Rows, reset: bool) -> Cells:
        """Return X in a form whose columns can be read, its shape and names checked."""
        _in_chunks.refuse_chunks(X, type(self).__name__)
        _validation._refuse_sparse(X)
        if isinstance(X, Mapping):
            return self._checked(X, np.asarray(list(map(str, X)), dtype=object), reset)
        frame = _validation._as_frame(X)
        if frame is not None:
            return self._checked(frame, _validation._feature_names(frame), reset)
        array = _validation._as_array(X, "X")
        if array.dtype.kind not in "OUS" or not _has_text(array):
            return as_matrix(self, X, reset=reset, min_rows=2 if reset else 1)
        _validation._check_dimensions(array, type(self).__name__)
        return self._checked(array.astype(object), None, reset)

    def _checked(self, cells: Cells, names: np.ndarray | None, reset: bool) -> Cells:
        from minorant.data.columns import read

        _, columns = read(cells)
        shape = (len(columns[0]) if columns else 0, len(columns))
        _validation._check_size(np.empty(shape), type(self).__name__, 2 if reset else 1)
        if reset:
            _validation._remember(self, shape[1], names)
        else:
            _validation._check_names(self, cells, names)
            _validation._check_width(self, shape[1])
        return cells

    def sample(self, n_samples: int = 1) -> tuple[Any, np.ndarray]:
        """Return `n_samples` rows, grouped by component, and their components.

        The rows come as the kind of table that `fit` was given, with the original categories.

        Raises:
            ValueError: `n_samples` is below 1.
        """
        self._check_fitted()
        rows, labels = self._drawn(n_samples)
        return self._decoded(rows, self._container), labels

    def impute(self, X: Rows, draw: bool = False) -> Any:
        """Return the table with its missing cells filled, in its own kind.

        Numbers are filled with ``E[x | x_observed]``, categories with the most probable one.

        Args:
            X: (n, d) rows; of rows out of memory all come back, as columns by name.
            draw: Fill with a draw from ``p(x | x_observed)`` instead (with `random_state`); do this
                before computing variances or correlations.
        """
        chunks = self._opened(X)
        if chunks is None:
            cells = self._cells(X, reset=False)
            rows, kind = self._encoded(cells, self.columns_, self.handle_unknown), _kind_of(cells)
        else:
            rows, kind = np.concatenate([table.values for table in chunks.read()]), "mapping"
        filled = self._ask("impute", rows, draw=draw, random_state=self.random_state)
        if not draw:
            filled = with_categories(self._current(), self.columns_, rows, filled)
        return self._decoded(filled, kind)

    def _decoded(self, rows: np.ndarray, container: Any) -> Any:
        decoded = self.columns_.decode(np.asarray(rows, dtype=float))
        if container == "mapping":
            return decoded
        if container is not None:
            import narwhals.stable.v2 as nw

            plain = {n: v.tolist() if v.dtype == object else v for n, v in decoded.items()}
            return nw.from_dict(plain, backend=container).to_native()
        if all(column.dtype != object for column in decoded.values()):
            return np.column_stack(list(decoded.values())).astype(float)
        return np.stack([column.astype(object) for column in decoded.values()], axis=1)

    def __sklearn_tags__(self) -> Tags:
        """Return what scikit-learn wants to know about the estimator."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.categorical = self._only_categories
        return tags

    _only_categories: ClassVar[bool] = False


def _kind_of(cells: Cells) -> Any:
    if isinstance(cells, Mapping):
        return "mapping"
    return None if isinstance(cells, np.ndarray) else cells.implementation.value


def _has_text(array: np.ndarray) -> bool:
    return any(isinstance(cell, str | bytes | bool) for cell in array.ravel().tolist())


def with_categories(fit: Fit, columns: Columns, rows: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Put the most probable category into missing cells of category columns: codes have no mean."""
    for j, column in enumerate(columns.items):
        missing = np.isnan(rows[:, j])
        if column.categories is not None and missing.any():
            filled[missing, j] = _most_probable(fit, columns, rows[missing], j)
    return filled


def _most_probable(fit: Fit, columns: Columns, rows: np.ndarray, j: int) -> Float[np.ndarray, " m"]:
    """Return ``argmax_c p(x_j = c, x_observed)`` of every row."""
    from minorant import evidence
    from minorant.data.tables import NamedMatrix

    codes = np.arange(len(columns.items[j].categories or ()))
    tried = np.repeat(rows, len(codes), axis=0)
    tried[:, j] = np.tile(codes, len(rows))
    scores = np.asarray(evidence.log_evidence(fit, NamedMatrix(tried, columns.names)))
    return np.argmax(scores.reshape(len(rows), len(codes)), axis=1).astype(float)
