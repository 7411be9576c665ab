"""What every estimator shares: the scikit-learn contract, without the cost of importing it.

Importing scikit-learn takes longer than importing JAX. So `Estimator` does not inherit from its
`BaseEstimator`. What users call on arrays (constructor, `fit`, `predict`, parameters, repr) is
written here and needs NumPy alone; what only scikit-learn calls (tags, metadata routing, output
containers, HTML) is scikit-learn's own code, looked up when it is first used.
"""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, cast

import numpy as np

from minorant.estimators import _in_chunks
from minorant.estimators._validation import Rows, Values, as_matrix, as_weights
from minorant.estimators.options import OPTIONS, Option

if TYPE_CHECKING:
    from sklearn.utils import Tags

Member: TypeAlias = Any  # a member of a class, of whatever type

# The methods whose metadata scikit-learn routes, and their arguments that are no metadata.
_ROUTED = (
    "fit",
    "partial_fit",
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "score",
    "transform",
    "inverse_transform",
)
_DATA = {"self", "X", "y", "Y", "Xt", "yt"}


class _Borrowed:
    """A member of scikit-learn's `BaseEstimator`, bound to our object when it is used."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type | None = None) -> Member:
        from sklearn.base import BaseEstimator

        return inspect.getattr_static(BaseEstimator, self.name).__get__(instance, owner)


class _Request:
    """A `set_{method}_request`, made by scikit-learn when it is used."""

    def __init__(self, method: str) -> None:
        self.method = method

    def __get__(self, instance: object, owner: Member = None) -> Member:
        from sklearn.utils._metadata_requests import RequestMethod

        keys = sorted(owner._get_class_level_metadata_request_values(self.method))
        return RequestMethod(self.method, keys).__get__(instance, owner)


def _parameters(function: Callable) -> list[inspect.Parameter]:
    """Return the named parameters of a method, without `self`."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = list(inspect.signature(function).parameters.values())[1:]
    return [parameter for parameter in found if parameter.kind not in variadic]


def _takes_metadata(cls: type, method: str) -> bool:
    function = getattr(cls, method, None)
    if not inspect.isfunction(function):
        return False
    return any(parameter.name not in _DATA for parameter in _parameters(function))


class Estimator:
    """The base of all estimators.

    A subclass stores its constructor's arguments unchanged, begins `fit` with `_begin_fit` and
    every method that needs a fitted model with `_read`.
    """

    _kind: ClassVar[str | None] = None
    _accepts_missing: ClassVar[bool] = True
    _takes_chunks: ClassVar[bool] = False
    _options: ClassVar[Mapping[str, Option]] = OPTIONS

    n_features_in_: int
    feature_names_in_: np.ndarray

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Give the class a `set_{method}_request` for every method that takes metadata."""
        super().__init_subclass__(**kwargs)
        for method in _ROUTED:
            name = f"set_{method}_request"
            if inspect.getattr_static(cls, name, None) is None and _takes_metadata(cls, method):
                setattr(cls, name, _Request(method))

    # Parameters

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return sorted(parameter.name for parameter in _parameters(cls.__init__))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters and, if deep, those of the estimators among them."""
        found: dict[str, Any] = {}
        for name in self._get_param_names():
            value = getattr(self, name)
            if deep and hasattr(value, "get_params") and not isinstance(value, type):
                found |= {f"{name}__{key}": inner for key, inner in value.get_params().items()}
            found[name] = value
        return found

    def set_params(self, **params: object) -> Self:
        """Set parameters by name (`part__name` for those of an estimator among them)."""
        if params.keys() <= set(self._get_param_names()):
            for name, value in params.items():
                setattr(self, name, value)
            return self
        from sklearn.base import BaseEstimator

        return cast(Any, BaseEstimator.set_params)(self, **params)

    def _validate_params(self) -> None:
        """Refuse the first parameter that is out of its option's range."""
        owner = type(self).__name__
        for name, value in self.get_params(deep=False).items():
            option = self._options.get(name)
            complaint = option.complaint(value, owner) if option else None
            if complaint:
                from sklearn.utils._param_validation import InvalidParameterError

                raise InvalidParameterError(complaint)

    # Data

    def _begin_fit(
        self,
        X: Rows,
        sample_weight: Values = None,
        min_rows: int = 1,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Check parameters, rows and weights, note the columns, and return (X, weights)."""
        self._validate_params()
        _in_chunks.refuse_chunks(X, type(self).__name__)
        matrix = as_matrix(self, X, reset=True, allow_nan=self._accepts_missing, min_rows=min_rows)
        return matrix, as_weights(sample_weight, len(matrix), matrix.dtype)

    def _read(self, X: Rows) -> np.ndarray:
        """Return new rows as a matrix, checked against those of `fit`."""
        self._check_fitted()
        _in_chunks.refuse_chunks(X, type(self).__name__)
        return as_matrix(self, X, reset=False, allow_nan=self._accepts_missing)

    def _takes(self, X: Rows) -> bool:
        """Tell whether these are rows out of memory, and the estimator takes such."""
        return self._takes_chunks and _in_chunks.out_of_memory(X)

    def _opened(self, X: Rows, **roles: Values) -> Any:
        """Return rows out of memory as chunks, of the columns of `fit`; None for a table."""
        if not self._takes(X):
            return None
        self._check_fitted()
        return self._chunks(X, reset=False, **roles)

    def _chunks(self, X: Rows, reset: bool, **roles: Values) -> Any:
        """Return the chunks that X is read in; `reset` in `fit`, which notes the columns."""
        return _in_chunks.opened(self, X, reset, **roles)

    def _named(self, rows: np.ndarray) -> Any:
        """Return the rows with the names of their columns, where these are known."""
        from minorant.data.tables import NamedMatrix

        names = getattr(self, "feature_names_in_", None)
        return rows if names is None else NamedMatrix(rows, tuple(map(str, names)))

    def __sklearn_is_fitted__(self) -> bool:
        """Tell whether `fit` ended: something is there besides the columns that it noted first."""
        noted = {"n_features_in_", "feature_names_in_"}
        return any(
            name.endswith("_") and not name.startswith("_") and name not in noted
            for name in vars(self)
        )

    def _check_fitted(self) -> None:
        """Raise scikit-learn's `NotFittedError` before `fit`."""
        if not self.__sklearn_is_fitted__():
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with "
                "appropriate arguments before using this estimator."
            )

    def _warn(self, sentence: str, category: str = "ConvergenceWarning") -> None:
        """Warn the caller of `fit` in one of the categories of `sklearn.exceptions`."""
        from sklearn import exceptions

        warnings.warn(sentence, getattr(exceptions, category), stacklevel=3)

    # Pictures

    def __repr__(self) -> str:
        """Return the constructor's call, with the parameters that differ from their defaults."""
        name = type(self).__name__
        shown = [
            f"{parameter.name}={_brief(getattr(self, parameter.name))}"
            for parameter in _parameters(type(self).__init__)
            if _shows(parameter, getattr(self, parameter.name))
        ]
        line = f"{name}({', '.join(shown)})"
        if len(line) <= 80:
            return line
        return f"{name}({(',' + chr(10) + ' ' * (len(name) + 1)).join(shown)})"

    _repr_html_ = _Borrowed()
    _repr_html_inner = _Borrowed()
    _repr_mimebundle_ = _Borrowed()
    _html_repr = _Borrowed()
    _get_params_html = _Borrowed()
    _get_fitted_attr_html = _Borrowed()

    # What scikit-learn asks

    def __sklearn_tags__(self) -> Tags:
        """Return what scikit-learn wants to know about the estimator."""
        from sklearn.base import BaseEstimator

        tags = cast(Any, BaseEstimator.__sklearn_tags__)(self)
        tags.estimator_type = self._kind
        tags.input_tags.allow_nan = self._accepts_missing
        return tags

    get_metadata_routing = _Borrowed()
    _get_metadata_request = _Borrowed()
    _get_class_level_metadata_request_values = _Borrowed()


def _brief(value: object) -> str:
    with np.printoptions(threshold=12, edgeitems=2):
        text = " ".join(repr(value).split())
    return text if len(text) <= 120 else f"{text[:80]}...{text[-37:]}"


def _shows(parameter: inspect.Parameter, value: object) -> bool:
    """Tell whether the repr shows a parameter, by scikit-learn's setting where it is loaded."""
    sklearn = sys.modules.get("sklearn")
    if sklearn and not getattr(sklearn, "get_config", dict)().get("print_changed_only", True):
        return True
    return repr(value) != repr(parameter.default)


class Density(Estimator):
    """An estimator with a log density per row: adds `score` and `fit_predict`.

    A subclass has `fit(X, y=None, sample_weight=None)`, `score_samples(X)` and `predict(X)`.
    """

    _kind = "density_estimator"

    def score(self, X: Rows, y: Values = None, sample_weight: Values = None) -> float:  # noqa: ARG002
        """Return the mean log density of the rows, weighted where weights are given."""
        chunks = self._opened(X, sample_weight=sample_weight)
        if chunks is not None:
            answer = cast(Any, self)._current()
            return _in_chunks.log_density(answer, chunks) / _in_chunks.total_weight(chunks)
        log_density = np.asarray(cast(Any, self).score_samples(X), dtype=np.float64)
        weights = as_weights(sample_weight, len(log_density))
        if weights is None:
            return float(np.mean(log_density))
        counted = weights > 0
        return float(np.average(log_density[counted], weights=weights[counted]))

    def fit_predict(self, X: Rows, y: Values = None, sample_weight: Values = None) -> np.ndarray:
        """Fit, and return the component of each row of X."""
        return cast(Any, self).fit(X, y, sample_weight=sample_weight).predict(X)


def _in_container(transform: Callable) -> Callable:
    """Let `transform` answer in the container that `set_output` asks for."""

    @functools.wraps(transform)
    def wrapped(self: Transformer, X: Rows, *args: object, **kwargs: object) -> Rows:
        output = transform(self, X, *args, **kwargs)
        if "sklearn" not in sys.modules and not hasattr(self, "_sklearn_output_config"):
            return output
        from sklearn.utils._set_output import _wrap_data_with_container

        return _wrap_data_with_container("transform", output, X, self)

    return wrapped


class Transformer(Estimator):
    """An estimator that maps rows to rows: adds `fit_transform`, `set_output` and column names.

    A subclass has `fit(X, y=None, ...)`, `transform(X)` and sets `_n_features_out` in `fit`.
    """

    _sklearn_auto_wrap_output_keys: ClassVar[set[str]] = {"transform"}
    _n_features_out: int

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Wrap the `transform` that the class defines."""
        super().__init_subclass__(**kwargs)
        if "transform" in vars(cls):
            cls.transform = _in_container(vars(cls)["transform"])

    def fit_transform(self, X: Rows, y: Values = None, **fit_params: object) -> Rows:
        """Fit, and return X transformed."""
        return cast(Any, self).fit(X, y, **fit_params).transform(X)

    def get_feature_names_out(self, input_features: Values = None) -> np.ndarray:
        """Return the names of the columns of `transform`: the class in small letters, numbered."""
        from sklearn.base import ClassNamePrefixFeaturesOutMixin

        names = cast(Any, ClassNamePrefixFeaturesOutMixin.get_feature_names_out)
        return names(self, input_features)

    def set_output(self, *, transform: str | None = None) -> Self:
        """Choose what `transform` returns: "default" (NumPy), "pandas" or "polars"."""
        from sklearn.base import TransformerMixin

        return cast(Any, TransformerMixin).set_output(self, transform=transform)

    def __sklearn_tags__(self) -> Tags:
        """Return what scikit-learn wants to know about the transformer."""
        from sklearn.utils import TransformerTags

        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=["float64", "float32"])
        return tags
