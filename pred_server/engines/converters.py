"""Converters of our own, for skl2onnx: its own compute these in float32, or otherwise than scikit-learn.

They are for trees and ensembles of trees, linear classifiers without probabilities, and what prepares columns. A
converter raises ValueError where the model is of a kind that it does not know.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType, StringTensorType
from sklearn import ensemble, linear_model, preprocessing, svm, tree
from sklearn.base import ClassifierMixin, is_classifier, is_regressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.impute import SimpleImputer

from pred_server.engines.nodes import ML, Graph, tensor
from pred_server.engines.trees import Tree, add_trees, of_histogram_tree, of_tree

# What skl2onnx may ask of a classifier's converter; only `zipmap` is ever set, to False.
CLASSIFIER_OPTIONS = {name: [True, False] for name in ("zipmap", "nocl", "output_class_labels", "raw_scores")}
# An encoder's place for a category that it does not know.
UNKNOWN = -1.0


def _forest(graph: Graph, model: Any) -> None:
    """Add the mean of the trees of a forest or of bagging, or one tree: a number, or a probability for each class."""
    members = getattr(model, "estimators_", [model])
    subsets = getattr(model, "estimators_features_", [None] * len(members))
    trees: list[Tree] = []
    for member, features in zip(members, subsets, strict=True):
        if not isinstance(member, tree.BaseDecisionTree) or member.n_outputs_ != 1:
            raise ValueError("not of trees for one target")
        values = member.tree_.value[:, 0, :]
        # A member of a bagging may not have seen all classes.
        outputs = member.classes_ if is_classifier(model) and member is not model else range(values.shape[1])
        trees += [of_tree(member.tree_, values[:, k], int(output), features) for k, output in enumerate(outputs)]
    n_outputs = len(model.classes_) if is_classifier(model) else 1
    total = add_trees(graph, _rounded(graph), trees, n_outputs)
    mean = graph.add("Div", total, graph.constant(float(len(members))))
    if is_classifier(model):
        _answer(graph, model, graph.add("ArgMax", mean, axis=1, keepdims=0), mean)
    else:
        graph.add("Identity", mean, output=graph.outputs[0])


def _gradient_boosting(graph: Graph, model: Any) -> None:
    if not isinstance(model.init_, str | DummyClassifier | DummyRegressor):
        raise ValueError("boosting that starts from another model")
    trees = [
        of_tree(member.tree_, model.learning_rate * member.tree_.value[:, 0, 0], k)
        for stage in model.estimators_
        for k, member in enumerate(stage)
    ]
    start = model._raw_predict_init(np.zeros((1, model.n_features_in_)))
    total = add_trees(graph, _rounded(graph), trees, start.shape[1])
    _boosted(graph, model, graph.add("Add", total, graph.constant(start)), "GreaterOrEqual")


def _histogram_boosting(graph: Graph, model: Any) -> None:
    if getattr(model, "_preprocessor", None) is not None:
        raise ValueError("boosting with categorical features")
    trees = [of_histogram_tree(member, k) for stage in model._predictors for k, member in enumerate(stage)]
    start = np.reshape(model._baseline_prediction, (1, -1))
    total = add_trees(graph, graph.cast(graph.inputs[0]), trees, start.shape[1])
    _boosted(graph, model, graph.add("Add", total, graph.constant(start)), "Greater")


def _boosted(graph: Graph, model: Any, raw: str, above_zero: str) -> None:
    """Turn the sum of the trees into what the loss makes of it."""
    if is_regressor(model):
        link = type(getattr(model._loss, "link", None)).__name__
        if link not in ("IdentityLink", "LogLink"):
            raise ValueError("boosting with another link")
        graph.add("Exp" if link == "LogLink" else "Identity", raw, output=graph.outputs[0])
    elif len(model.classes_) > 2:
        _answer(graph, model, graph.add("ArgMax", raw, axis=1, keepdims=0), graph.add("Softmax", raw, axis=1))
    else:
        second = graph.add(above_zero, raw, graph.constant(0.0))
        scale = 2.0 if type(model._loss).__name__ == "ExponentialLoss" else 1.0
        probability = graph.add("Sigmoid", graph.add("Mul", raw, graph.constant(scale)))
        both = graph.add("Concat", graph.add("Sub", graph.constant(1.0), probability), probability, axis=1)
        _answer(graph, model, _flat(graph, graph.cast(second, TensorProto.INT64)), both)


def _isolation_forest(graph: Graph, model: Any) -> None:
    trees = [
        of_tree(member.tree_, path + average - 1.0, 0, features if model._max_features < model.n_features_in_ else None)
        for member, features, path, average in zip(
            model.estimators_,
            model.estimators_features_,
            model._decision_path_lengths,
            model._average_path_length_per_tree,
            strict=True,
        )
    ]
    depth = add_trees(graph, _rounded(graph), trees, 1)
    longest = len(trees) * float(ensemble._iforest._average_path_length([model._max_samples])[0])
    score = graph.add("Pow", graph.constant(2.0), graph.add("Div", depth, graph.constant(-longest)))
    score = graph.add("Sub", graph.add("Neg", score), graph.constant(float(model.offset_)), output=graph.outputs[1])
    outlier = graph.cast(graph.add("Less", score, graph.constant(0.0)), TensorProto.INT64)
    graph.add("Sub", graph.constant(1), graph.add("Mul", graph.constant(2), outlier), output=graph.outputs[0])


def _linear_classifier(graph: Graph, model: Any) -> None:
    if hasattr(model, "predict_proba"):
        raise ValueError("a classifier with probabilities by another rule")
    product = graph.add("MatMul", graph.cast(graph.inputs[0]), graph.constant(np.transpose(model.coef_).astype(float)))
    scores = graph.add("Add", product, graph.constant(np.reshape(model.intercept_, (1, -1)).astype(float)))
    if len(model.classes_) > 2:
        places = graph.add("ArgMax", scores, axis=1, keepdims=0)
    else:
        second = graph.add("Greater", scores, graph.constant(0.0))
        places = _flat(graph, graph.cast(second, TensorProto.INT64))
    _answer(graph, model, places, scores)


def _one_hot_encoder(graph: Graph, model: Any) -> None:
    dropped = model._drop_idx_after_grouping
    parts = []
    for place, (column, codes) in enumerate(_coded_columns(graph, model)):
        known = np.unique(codes)
        if dropped is not None and dropped[place] is not None:
            known = np.delete(known, dropped[place])
        parts.append(graph.cast(graph.add("Equal", column, graph.constant(known.reshape(1, -1)))))
    graph.add("Concat", *parts, axis=1, output=graph.outputs[0])


def _ordinal_encoder(graph: Graph, model: Any) -> None:
    columns = [column for column, _ in _coded_columns(graph, model)]
    graph.add("Concat", *columns, axis=1, output=graph.outputs[0])


def _simple_imputer(graph: Graph, model: Any) -> None:
    """Fill gaps. Text stays as it is: the graph's text has no gaps."""
    if model.statistics_.dtype.kind in "OUT":
        graph.add("Concat", *graph.inputs, axis=1, output=graph.outputs[0])
        return
    if model.missing_values == model.missing_values:
        raise ValueError("gaps that are not NaN")
    table = graph.cast(graph.inputs[0])
    gaps = graph.add("IsNaN", table)
    filled = graph.add("Where", gaps, graph.constant(model.statistics_.reshape(1, -1)), table)
    kept = np.flatnonzero(~np.isnan(model.statistics_))
    parts = [graph.add("Gather", filled, graph.constant(kept), axis=1)]
    if model.indicator_ is not None:
        parts.append(graph.cast(graph.add("Gather", gaps, graph.constant(model.indicator_.features_), axis=1)))
    graph.add("Concat", *parts, axis=1, output=graph.outputs[0])


def _binarizer(graph: Graph, model: Any) -> None:
    """Compare with the threshold: skl2onnx takes a value at the threshold for one above it."""
    above = graph.add("Greater", graph.cast(graph.inputs[0]), graph.constant(float(model.threshold)))
    graph.add("Cast", above, to=TensorProto.DOUBLE, output=graph.outputs[0])


def _polynomial_features(graph: Graph, model: Any) -> None:
    """Multiply columns. Each product has as many factors as the highest degree: a column of ones stands for none."""
    table = graph.cast(graph.inputs[0])
    n_rows = graph.add("Gather", graph.add("Shape", table), graph.constant(np.array([0])))
    shape = graph.add("Concat", n_rows, graph.constant(np.array([1])), axis=0)
    table = graph.add("Concat", graph.add("Expand", graph.constant(np.ones((1, 1))), shape), table, axis=1)
    factors = [np.repeat(np.arange(1, len(powers) + 1), powers) for powers in model.powers_]
    degree = max(map(len, factors))
    places = np.array([np.pad(columns, (0, degree - len(columns))) for columns in factors])
    product = graph.add("Gather", table, graph.constant(places[:, 0]), axis=1)
    for column in places.T[1:]:
        product = graph.add("Mul", product, graph.add("Gather", table, graph.constant(column), axis=1))
    graph.add("Identity", product, output=graph.outputs[0])


def _coded_columns(graph: Graph, model: Any) -> list[tuple[str, np.ndarray]]:
    """Return, for each column, its categories' codes as (n_rows, 1) numbers in the graph, and the codes that it has."""
    columns = _single_columns(graph)
    grouped = model._default_to_infrequent_mappings if getattr(model, "_infrequent_enabled", False) else None
    coded = []
    for place, (column, categories) in enumerate(zip(columns, model.categories_, strict=True)):
        known = np.array([not (value is None or value != value) for value in categories], bool)
        mapping = None if grouped is None else grouped[place]
        codes = np.zeros(len(categories))
        codes[known] = np.arange(known.sum()) if mapping is None else mapping[: known.sum()]
        default = getattr(model, "unknown_value", None)
        if getattr(model, "handle_unknown", "") == "infrequent_if_exist" and mapping is not None:
            default = mapping.max()  # the rare ones' common code is the last
        codes[~known] = getattr(model, "encoded_missing_value", len(categories) - 1)
        text = categories.dtype.kind in "OUT"
        keys = categories[known].astype(str).astype(object) if text else categories.astype(float)
        values = (codes[known] if text else codes).astype(float)
        name = graph.add(
            "LabelEncoder",
            column if text else graph.cast(column),
            domain=ML,
            keys_tensor=tensor(keys),
            values_tensor=tensor(values),
            default_tensor=tensor([UNKNOWN if default is None else float(default)]),
        )
        coded.append((name, codes))
    return coded


def _single_columns(graph: Graph) -> list[str]:
    """Return the inputs' columns, each of shape (n_rows, 1)."""
    columns = []
    for name, width in zip(graph.inputs, graph.widths, strict=True):
        places = [graph.constant(np.array([place])) for place in range(width)]
        columns += [name] if width == 1 else [graph.add("Gather", name, place, axis=1) for place in places]
    return columns


def _rounded(graph: Graph) -> str:
    """Return the table as scikit-learn's trees see it: rounded to float32, in float64."""
    return graph.cast(graph.cast(graph.inputs[0], TensorProto.FLOAT, output=graph.name("seen_by_trees")))


def _flat(graph: Graph, name: str) -> str:
    return graph.add("Reshape", name, graph.constant(np.array([-1])))


def _answer(graph: Graph, model: Any, places: str, scores: str) -> None:
    """Write a classifier's two outputs: the labels by their places among its classes, and its scores."""
    labels = model.classes_.astype(object if model.classes_.dtype.kind in "OUT" else np.int64)
    if not np.array_equal(labels, model.classes_):
        raise ValueError("labels that are neither text nor whole numbers")
    graph.add("Gather", graph.constant(labels), places, axis=0, output=graph.outputs[0])
    graph.add("Identity", scores, output=graph.outputs[1])


def _shapes(operator: Any) -> None:
    """Say which types the outputs have: labels, or numbers in double precision."""
    model, n_rows = operator.raw_operator, operator.inputs[0].get_first_dimension()
    if hasattr(model, "transform"):
        text = getattr(model, "statistics_", np.zeros(0)).dtype.kind in "OUT"
        n_columns = len(model.get_feature_names_out())
        operator.outputs[0].type = (StringTensorType if text else DoubleTensorType)([n_rows, n_columns])
        return
    if len(operator.outputs) == 2:
        text = is_classifier(model) and model.classes_.dtype.kind in "OUT"
        operator.outputs[0].type = (StringTensorType if text else Int64TensorType)([n_rows])
    operator.outputs[-1].type = DoubleTensorType([n_rows, len(getattr(model, "classes_", [0]))])


CONVERTERS: dict[Callable[[Graph, Any], None], tuple[type, ...]] = {
    _forest: (
        tree.DecisionTreeClassifier, tree.DecisionTreeRegressor, tree.ExtraTreeClassifier, tree.ExtraTreeRegressor,
        ensemble.RandomForestClassifier, ensemble.RandomForestRegressor, ensemble.ExtraTreesClassifier,
        ensemble.ExtraTreesRegressor, ensemble.BaggingClassifier, ensemble.BaggingRegressor,
    ),
    _gradient_boosting: (ensemble.GradientBoostingClassifier, ensemble.GradientBoostingRegressor),
    _histogram_boosting: (ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor),
    _isolation_forest: (ensemble.IsolationForest,),
    _linear_classifier: (
        linear_model.PassiveAggressiveClassifier, linear_model.Perceptron, linear_model.RidgeClassifier,
        linear_model.RidgeClassifierCV, linear_model.SGDClassifier, svm.LinearSVC,
    ),
    _simple_imputer: (SimpleImputer,),
    _binarizer: (preprocessing.Binarizer,),
    _polynomial_features: (preprocessing.PolynomialFeatures,),
    _one_hot_encoder: (preprocessing.OneHotEncoder,),
    _ordinal_encoder: (preprocessing.OrdinalEncoder,),
}  # fmt: skip


def register() -> None:
    """Have skl2onnx use these converters."""
    for write, kinds in CONVERTERS.items():
        for kind in kinds:
            options = CLASSIFIER_OPTIONS if issubclass(kind, ClassifierMixin) else {"score_samples": [True, False]}
            name = f"PredServer{kind.__name__}"
            update_registered_converter(kind, name, _shapes, _as_skl2onnx_calls(write), options=options)


def _as_skl2onnx_calls(write: Callable[[Graph, Any], None]) -> Callable[[Any, Any, Any], None]:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        write(Graph(scope, operator, container), operator.raw_operator)

    return convert
