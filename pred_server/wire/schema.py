"""The columns that a model takes, and the check that a table has them."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pred_server.errors import InvalidInput, Violation, clip
from pred_server.generated.pred_pb2 import Tensor
from pred_server.limits import check_columns
from pred_server.wire.rows import Rows

NUMERIC_DTYPES = (
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64",
)  # fmt: skip
DTYPES = ("bool", "str", *NUMERIC_DTYPES)


@dataclass(frozen=True)
class Column:
    """One column: `dtype` is one of `DTYPES`; `nullable` where the model takes a missing value (NaN, None)."""

    name: str
    dtype: str
    nullable: bool = False
    unit: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InvalidInput(f"a column's name is text, not {self.name!r}")
        if self.dtype not in DTYPES:
            raise InvalidInput(f"column {self.name!r} has dtype {self.dtype}; use one of {', '.join(DTYPES)}")

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith("float")

    @property
    def is_integer(self) -> bool:
        return self.dtype in NUMERIC_DTYPES and not self.is_float


@dataclass(frozen=True)
class Schema:
    """The feature columns of a model, in its order, and its target.

    `targets` are the names of the predictions' columns where the model predicts several values for a row; `target` then
    says what they have in common.
    """

    columns: tuple[Column, ...]
    target: Column
    targets: tuple[str, ...] = ()

    @cached_property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @cached_property
    def names_in_tensor(self) -> bytes:
        """The names as a serialized `Tensor` has them: to compare them so takes a thousandth of the time."""
        return Tensor(names=self.names).SerializeToString()

    @cached_property
    def hash(self) -> str:
        """Names, dtypes, order, nullability and target as 16 characters: the same in every process and release."""
        columns = [[column.name, column.dtype, bool(column.nullable)] for column in self.columns]
        target = [self.target.name, self.target.dtype, bool(self.target.nullable)]
        facts = json.dumps([columns, target, list(self.targets)], separators=(",", ":"))  # ASCII, whatever the names
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Schema":
        columns = tuple(Column(**column) for column in data["columns"])
        return cls(columns, Column(**data["target"]), tuple(map(str, data.get("targets", ()))))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def check_names(self, names: list[str]) -> list[str]:
        """Return the names of the columns that the model does not know and ignores.

        Raises
        ------
        InvalidInput
            A column is missing, or a name stands twice.
        """
        check_columns(len(names))
        known = set(self.names)
        if len(set(names)) == len(names) and known.issubset(names):
            return [name for name in names if name not in known]
        check_unique(names)
        there, given = clip(", ".join(map(repr, names[:20])) or "no columns", 200), set(names)
        unseen = {name.strip(_UNSEEN): name for name in reversed(names)}
        violations = []
        for name in self.names:
            if name not in given:
                beside = unseen.get(name.strip(_UNSEEN))
                why = (
                    f"the table has {there}" if beside is None else f"{clip(repr(beside))} is there, {_around(beside)}"
                )
                violations.append(Violation(name, f"the column is missing ({why})"))
        raise InvalidInput.at(violations)

    @cached_property
    def uniform(self) -> np.dtype | None:
        """The dtype of all columns, if they have one numeric dtype."""
        dtypes = {column.dtype for column in self.columns}
        return np.dtype(dtypes.pop()) if len(dtypes) == 1 and dtypes <= set(NUMERIC_DTYPES) else None

    @cached_property
    def index(self) -> pd.Index:
        return pd.Index(self.names)

    def frame_to_rows(self, table: pd.DataFrame) -> Rows:
        """Return the model's columns of a DataFrame of shape (n_rows, n_columns), n_rows >= 1, in any order.

        Raises
        ------
        InvalidInput
            As `check_names` and `to_rows` do.
        """
        table = table.set_axis([str(name) for name in table.columns], axis=1)
        self.check_names(list(table.columns))
        if self.uniform is not None:  # in one piece: with thousands of columns, to take each by itself is slow
            table = table[self.names]
            if set(table.dtypes) == {self.uniform}:
                return self.array_to_rows(table.to_numpy(), self.names)
        return self.to_rows(table)

    def to_rows(self, table: pd.DataFrame | Mapping[str, Any]) -> Rows:
        """Return the model's columns in its order and dtypes. The names have been checked; other columns are left out.

        Raises
        ------
        InvalidInput
            There are no rows, or a column has values of another type, or lacks values that the model needs.
        """
        if len(table[self.names[0]]) == 0:
            raise InvalidInput("the table has no rows")
        values, violations = {}, []
        for column in self.columns:
            try:
                values[column.name] = _cast(table[column.name], column)
            except ValueError as error:
                violations.append(Violation(column.name, str(error)))
        if violations:
            raise InvalidInput.at(violations)
        # An array of columns, transposed: column-major.
        return Rows(np.array(list(values.values())).T if self.uniform else values)

    def array_to_rows(self, array: np.ndarray, names: list[str]) -> Rows:
        """`to_rows` for an array of shape (n_rows, n_columns) whose columns have these names; a view where it fits."""
        # `is not None`: NumPy takes None for float64 when it compares types.
        fits = self.uniform is not None and names == self.names and array.dtype == self.uniform and len(array) > 0
        if not fits or (array.dtype.kind == "f" and math.isnan(array.min())):
            return self.to_rows({name: array[:, place] for place, name in enumerate(names)})
        return Rows(np.asfortranarray(array))


def check_unique(names: list[str]) -> None:
    """Raise InvalidInput where a column stands more than once."""
    count = Counter(names)
    if len(count) < len(names):
        twice = "the column stands more than once: the table has two columns of one name"
        raise InvalidInput.at([Violation(name, twice) for name in count if count[name] > 1])


# What may stand around a name unseen: blanks, and the byte-order mark of a file.
_UNSEEN = " \t\r\n\v\f\xa0\u200b\ufeff"


def _around(name: str) -> str:
    """Say what stands around a name."""
    front, behind = len(name) - len(name.lstrip(_UNSEEN)), len(name) - len(name.rstrip(_UNSEEN))
    what = "a byte-order mark" if name.startswith("\ufeff") else "a blank" if max(front, behind) == 1 else "blanks"
    if front and behind:
        return f"with {what} around it"
    return f"with {what} in front" if front else f"with {what} behind" if behind else "without blanks around it"


# What pandas calls objects that are all numbers, or nothing at all.
_NUMBERS = ("integer", "floating", "mixed-integer-float", "empty")


def infer_column(values: pd.Series, nullable: bool = False) -> Column:
    """Return the name and dtype with which a training column is served.

    Categories are served as their values, pandas' and Arrow's dtypes as NumPy's, integers with gaps as float64.

    Raises
    ------
    InvalidInput
        There is no such dtype, or booleans have gaps.
    """
    values = as_numbers(plain(values))
    held = pd.api.types.infer_dtype(values, skipna=True)
    if isinstance(values.dtype, pd.StringDtype) or held == "string":
        return Column(str(values.name), "str", nullable)
    gaps = values.isna().any()
    if held == "boolean" and gaps:
        raise InvalidInput.field(str(values.name), "has booleans and missing values; fit and save it as float64")
    dtype: Any = "bool" if held == "boolean" else values.dtype
    if held in ("integer", "floating"):  # of pandas and Arrow, too
        dtype = np.dtype("float64" if held == "integer" and gaps else getattr(dtype, "numpy_dtype", dtype)).name
    return Column(str(values.name), str(dtype), nullable)


def as_numbers(values: pd.Series) -> pd.Series:
    """Return objects that are all numbers as numbers, and any other column as it is."""
    is_number = values.dtype == "object" and pd.api.types.infer_dtype(values, skipna=True) in _NUMBERS
    if is_number and values.isna().any():
        values = values.where(values.notna(), np.nan).astype(float)  # pd.NA is no number to NumPy
    return pd.to_numeric(values) if is_number else values


def plain(values: pd.Series) -> pd.Series:
    """Return the values of a categorical column as such, and any other column as it is."""
    if not isinstance(values.dtype, pd.CategoricalDtype):
        return values
    whole_numbers_with_gaps = values.isna().any() and pd.api.types.is_integer_dtype(values.cat.categories.dtype)
    return values.astype("float64" if whole_numbers_with_gaps else values.cat.categories.dtype)


def _cast(values: Any, column: Column) -> Any:
    """Return the values as an array of the column's type. Most are one already."""
    if isinstance(values, np.ndarray) and values.dtype == column.dtype:
        may_have_gaps = column.is_float and not column.nullable
        if not (may_have_gaps and _has_nan(values)):
            return values
    values = plain(values) if isinstance(values, pd.Series) else values
    missing = pd.isna(values)
    if missing.any() and not column.nullable:
        raise ValueError(f"row {int(missing.argmax()) + 1} has no value, and the model needs one")
    if missing.all() and (column.is_float or column.dtype == "str"):  # nothing at all is of any type
        return np.full(len(missing), None) if column.dtype == "str" else np.full(len(missing), np.nan, column.dtype)
    if column.dtype in ("str", "bool"):
        kind = "string" if column.dtype == "str" else "boolean"
        found = pd.api.types.infer_dtype(values, skipna=True)
        if found not in (kind, "empty"):
            raise ValueError(f"holds {found} values; the model takes {kind} values")
    else:
        values = as_numbers(values if isinstance(values, pd.Series) else pd.Series(values))
        is_number = pd.api.types.is_numeric_dtype(values.dtype) and not str(values.dtype).startswith("decimal")
        if not is_number or pd.api.types.is_bool_dtype(values.dtype):
            raise ValueError(f"holds values of dtype {values.dtype}; the model takes {column.dtype}")
    if column.is_integer:
        info = np.iinfo(column.dtype)
        # float(info.max) rounds up, to a number that does not fit.
        is_float = pd.api.types.is_float_dtype(values.dtype)
        values = values.astype("float64") if is_float else values  # Arrow's have no remainder
        above = values >= float(info.max) + 1 if is_float else values > info.max
        wrong = (values < info.min) | above | (is_float and values % 1 != 0)
        if wrong.any():
            at = int(wrong.argmax())
            raise ValueError(f"row {at + 1} has {values.iloc[at]}, not a whole number of type {column.dtype}")
    if column.dtype in NUMERIC_DTYPES:
        with np.errstate(over="ignore"):
            return values.to_numpy(column.dtype, na_value=np.nan if column.is_float else 0)
    if column.dtype == "bool":
        return np.asarray(values, dtype=bool)
    # A column of text is kept as it is: objects for a few rows, Arrow's strings for many.
    return values if isinstance(values, np.ndarray) else pd.Series(values, dtype=str).array


def _has_nan(values: np.ndarray) -> bool:
    return len(values) > 0 and math.isnan(values.min())  # min hands a NaN on, and needs no array in between
