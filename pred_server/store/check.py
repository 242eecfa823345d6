"""Checks of an estimator that was loaded from a file: what the compiled parts of scikit-learn take on faith.

scikit-learn follows the numbers of a fitted estimator without a look at each: a tree whose child lies outside crashes
the process, one whose child is its own parent never ends. So `check_estimator` looks at every part of an estimator
once, when it is loaded. `_check` has a rule for each type whose methods are compiled code.
"""

from functools import partial, singledispatch
from typing import Any

import numpy as np
from scipy import sparse
from scipy.interpolate import BSpline
from sklearn.cluster import BisectingKMeans
from sklearn.cluster._bisect_k_means import _BisectingTree
from sklearn.ensemble import BaseEnsemble
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.neighbors import BallTree, KDTree
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder
from sklearn.svm._base import BaseLibSVM
from sklearn.tree import BaseDecisionTree
from sklearn.tree._tree import Tree
from sklearn.utils.validation import check_array

from pred_server.model.parts import parts


class Unsound(ValueError):
    """An estimator whose numbers do not fit together; the text says which part, and what is wrong with it."""


def check_estimator(estimator: Any) -> None:
    """Raise Unsound where a part of the estimator would lead its code out of an array, into a loop, or to a file."""
    for part in parts(estimator):
        try:
            _check(part)
            _check_width(part)
        except Unsound as error:
            raise Unsound(f"{type(part).__name__}: {error}") from error
        except Exception as error:  # of any type: an attribute is missing, or of another type
            raise Unsound(f"{type(part).__name__} is not whole") from error


def _require(fits: Any, what: str) -> None:
    if not np.all(fits):
        raise Unsound(what)


def _within(places: Any, length: int) -> Any:
    return (np.asarray(places) >= 0) & (np.asarray(places) < length)


def _check_width(part: Any) -> None:
    """Compare the arrays that compiled code reads by the width of the table with the width that is announced."""
    if hasattr(part, "n_features_in_"):
        for name in ("_fit_X", "cluster_centers_"):
            held: Any = getattr(part, name, None)
            if getattr(held, "ndim", 0) == 2 and getattr(part, "metric", "") != "precomputed":
                _require(held.shape[1] == part.n_features_in_, f"{name} has another width than the table")


@singledispatch
def _check(part: Any) -> None:
    """Raise Unsound where this part is not sound."""


@_check.register
def _(tree: Tree) -> None:
    inner = np.flatnonzero(tree.children_left != -1)
    _check_nodes(tree.children_left, tree.children_right, inner)
    _require(_within(tree.feature[inner], tree.n_features), "a node asks for a column that is not there")


def _check_nodes(left: np.ndarray, right: np.ndarray, inner: np.ndarray) -> None:
    """Raise Unsound where a child is not a later node: trees are written from the top down, so no way is a circle."""
    children = np.array([left[inner], right[inner]], np.int64)
    _require(len(left) > 0, "it has no nodes")
    _require((children > inner) & (children < len(left)), "a node's child is not a later node of the tree")


@_check.register
def _(estimator: BaseDecisionTree) -> None:
    if hasattr(estimator, "tree_"):
        _require(estimator.tree_.n_features == estimator.n_features_in_, "its nodes are of another table")


@_check.register
def _(ensemble: BaseEnsemble) -> None:
    # Trees in an ensemble are asked without a check of the table's width.
    held = getattr(ensemble, "estimators_", ())
    members = held.ravel().tolist() if isinstance(held, np.ndarray) else held
    every = range(getattr(ensemble, "n_features_in_", 0))
    chosen = getattr(ensemble, "estimators_features_", None) or [every] * len(members)
    for member, features in zip(members, chosen, strict=True):
        _require(_within(features, len(every)), "a column is chosen that is not there")
        _require(getattr(member, "n_features_in_", len(features)) == len(features), "its trees are of another table")


@_check.register
def _(tree: TreePredictor) -> None:
    nodes, bitsets = tree.nodes, tree.raw_left_cat_bitsets
    _check_nodes(nodes["left"], nodes["right"], np.flatnonzero(nodes["is_leaf"] == 0))
    _require(bitsets.ndim == 2 and bitsets.shape[1] == 8, "its sets of categories are cut off")
    asked = nodes["bitset_idx"][nodes["is_categorical"] > 0]
    _require(_within(asked, len(bitsets)), "a node asks for a set of categories that is not there")


@_check.register
def _(boosting: BaseHistGradientBoosting) -> None:
    if not hasattr(boosting, "_predictors"):
        return
    width, bins, prepare = boosting.n_features_in_, boosting._bin_mapper, boosting._preprocessor
    categorical = np.asarray(bins.is_categorical_, bool)
    _require(len(categorical) == len(bins.bin_thresholds_) == width, "its bins are of another table")
    if prepare is not None:
        # As `fit` makes it: an encoder of some columns, and the others as they are. Then no column gets lost.
        (_, encoder, some), (_, others, rest), *_dropped = prepare.transformers_
        function = others.func if isinstance(others, FunctionTransformer) else None
        known = isinstance(function, partial) and function.func is check_array
        _require(known and isinstance(encoder, OrdinalEncoder | str), "it prepares its table in another way")
        _require(np.asarray(some, bool) ^ np.asarray(rest, bool), "it leaves columns out")
        _require(prepare.n_features_in_ == width, "it leaves columns out")
    for tree in (tree for trees in boosting._predictors for tree in trees):
        inner = tree.nodes[tree.nodes["is_leaf"] == 0]
        _require(_within(inner["feature_idx"], width), "a node asks for a column that is not there")
        by_category = inner["feature_idx"][inner["is_categorical"] > 0]
        _require(categorical[by_category], "a node takes a number for a category")


@_check.register(KDTree)
@_check.register(BallTree)
def _(tree: Any) -> None:
    data, places, nodes, bounds, _, n_levels, n_nodes, *_, distance, _ = tree.__getstate__()
    n_rows, n_columns = data.shape
    first, end = nodes["idx_start"], nodes["idx_end"]
    whole = n_rows > 0 and n_nodes == 2**n_levels - 1 == len(nodes)
    _require(whole and nodes["is_leaf"][n_nodes // 2 :].all(), "its nodes are not those of a whole tree")
    _require(np.array_equal(np.sort(places), np.arange(n_rows)), "its rows are not each there once")
    _require(_within(first, n_rows) & (end > first) & (end <= n_rows), "a node's rows are not there")
    _require(bounds.shape == (2 if isinstance(tree, KDTree) else 1, n_nodes, n_columns), "a node has no bounds")
    # A distance without weights holds a single 0 in place of them.
    kind, (_, weights, matrix) = type(distance).__name__, distance.__getstate__()
    one, square = () if "SEuclidean" in kind else (1,), (1, 1) if "Mahalanobis" not in kind else None
    _require(weights.shape in (one, (n_columns,)), "its distance is of another table")
    _require(matrix.shape in (square, (n_columns, n_columns)), "its distance is of another table")


@_check.register(sparse.spmatrix)
@_check.register(sparse.sparray)
def _(matrix: Any) -> None:
    # The file's numbers say which format it is, whatever the type is called.
    _require(matrix.format in ("csr", "csc"), "it is of a format that no estimator keeps")
    matrix.check_format(full_check=True)


@_check.register
def _(spline: BSpline) -> None:
    # Not by making it anew: knots of a constant column lie at one place, which only the constructor refuses.
    degree, knots, n_coefficients = spline.k, spline.t, len(spline.c)
    _require(knots.ndim == 1 and 0 <= degree < len(knots) - degree - 1 <= n_coefficients, "its knots are not all there")
    _require(np.isfinite(knots).all() and (np.diff(knots) >= 0).all(), "its knots are not in order")


@_check.register
def _(machine: BaseLibSVM) -> None:
    if not hasattr(machine, "_n_support"):
        return
    vectors, counts = machine.support_vectors_, machine._n_support
    n_classes, n_vectors = 2, len(machine.support_)
    if machine._impl in ("c_svc", "nu_svc"):  # of other machines the counts are not read, and may be any numbers
        n_classes = len(counts)
        _require((counts >= 0).all() and counts.sum() == n_vectors, "its support vectors are not all there")
    n_pairs = n_classes * (n_classes - 1) // 2
    _require(machine._dual_coef_.shape == (n_classes - 1, n_vectors), "its coefficients are not all there")
    # Of a sparse matrix the size is how many numbers it holds: compiled code takes it for whole.
    _require(machine._dual_coef_.size == (n_classes - 1) * n_vectors, "its coefficients are not all there")
    _require(len(machine._intercept_) == n_pairs, "its constants are not all there")
    _require({len(machine._probA), len(machine._probB)} <= {0, n_pairs, 1}, "its constants are not all there")
    if not callable(machine.kernel) and machine.kernel != "precomputed":
        _require(vectors.shape == (n_vectors, machine.n_features_in_), "its support vectors are of another table")


@_check.register
def _(clusters: BisectingKMeans) -> None:
    for part in parts(getattr(clusters, "_bisecting_tree", None)):
        if isinstance(part, _BisectingTree):
            _require(part.center.shape == (clusters.n_features_in_,), "a centre is of another table")


@_check.register
def _(encoder: OneHotEncoder) -> None:
    if hasattr(encoder, "categories_"):
        _require(encoder._n_features_outs == encoder._compute_n_features_outs(), "its columns are not all there")


@_check.register(CountVectorizer)
@_check.register(HashingVectorizer)
def _(vectorizer: Any) -> None:
    _require(vectorizer.input == "content", "it reads files; use input='content', and read them yourself")
    words = getattr(vectorizer, "vocabulary_", {})
    _require(sorted(words.values()) == list(range(len(words))), "its words are not numbered one by one")
