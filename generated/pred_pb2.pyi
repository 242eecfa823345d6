from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("input_data", "tensor", "columns", "arrow")
    INPUT_DATA_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ARROW_FIELD_NUMBER: _ClassVar[int]
    input_data: str
    tensor: Tensor
    columns: Columns
    arrow: bytes
    def __init__(self, input_data: _Optional[str] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., columns: _Optional[_Union[Columns, _Mapping]] = ..., arrow: _Optional[bytes] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("result", "tensor", "columns", "arrow")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ARROW_FIELD_NUMBER: _ClassVar[int]
    result: str
    tensor: Tensor
    columns: Columns
    arrow: bytes
    def __init__(self, result: _Optional[str] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., columns: _Optional[_Union[Columns, _Mapping]] = ..., arrow: _Optional[bytes] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "names", "data", "order", "categories")
    class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ORDER_ROW_MAJOR_UNSPECIFIED: _ClassVar[Tensor.Order]
        ORDER_COLUMN_MAJOR: _ClassVar[Tensor.Order]
    ORDER_ROW_MAJOR_UNSPECIFIED: Tensor.Order
    ORDER_COLUMN_MAJOR: Tensor.Order
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    data: bytes
    order: Tensor.Order
    categories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., names: _Optional[_Iterable[str]] = ..., data: _Optional[bytes] = ..., order: _Optional[_Union[Tensor.Order, str]] = ..., categories: _Optional[_Iterable[str]] = ...) -> None: ...

class Columns(_message.Message):
    __slots__ = ("columns",)
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    def __init__(self, columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "float64", "float32", "int64", "uint64", "bool", "str", "missing")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FLOAT64_FIELD_NUMBER: _ClassVar[int]
    FLOAT32_FIELD_NUMBER: _ClassVar[int]
    INT64_FIELD_NUMBER: _ClassVar[int]
    UINT64_FIELD_NUMBER: _ClassVar[int]
    BOOL_FIELD_NUMBER: _ClassVar[int]
    STR_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    name: str
    float64: _containers.RepeatedScalarFieldContainer[float]
    float32: _containers.RepeatedScalarFieldContainer[float]
    int64: _containers.RepeatedScalarFieldContainer[int]
    uint64: _containers.RepeatedScalarFieldContainer[int]
    bool: _containers.RepeatedScalarFieldContainer[bool]
    str: _containers.RepeatedScalarFieldContainer[str]
    missing: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., float64: _Optional[_Iterable[float]] = ..., float32: _Optional[_Iterable[float]] = ..., int64: _Optional[_Iterable[int]] = ..., uint64: _Optional[_Iterable[int]] = ..., bool: _Optional[_Iterable[bool]] = ..., str: _Optional[_Iterable[str]] = ..., missing: _Optional[_Iterable[int]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("name", "version", "columns", "target", "classes", "encodings", "engine", "scores", "models", "parity", "threads")
    class ScoresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    columns: _containers.RepeatedCompositeFieldContainer[ColumnDescription]
    target: ColumnDescription
    classes: _containers.RepeatedScalarFieldContainer[str]
    encodings: _containers.RepeatedScalarFieldContainer[str]
    engine: str
    scores: _containers.ScalarMap[str, str]
    models: _containers.RepeatedScalarFieldContainer[str]
    parity: str
    threads: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., columns: _Optional[_Iterable[_Union[ColumnDescription, _Mapping]]] = ..., target: _Optional[_Union[ColumnDescription, _Mapping]] = ..., classes: _Optional[_Iterable[str]] = ..., encodings: _Optional[_Iterable[str]] = ..., engine: _Optional[str] = ..., scores: _Optional[_Mapping[str, str]] = ..., models: _Optional[_Iterable[str]] = ..., parity: _Optional[str] = ..., threads: _Optional[str] = ...) -> None: ...

class ColumnDescription(_message.Message):
    __slots__ = ("name", "dtype", "nullable", "unit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    NULLABLE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    nullable: bool
    unit: str
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., nullable: _Optional[bool] = ..., unit: _Optional[str] = ...) -> None: ...
