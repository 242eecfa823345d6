"""An estimator whose numbers lead out of its arrays, in a circle, or to a file is refused before it computes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.cluster import BisectingKMeans, KMeans
from sklearn.ensemble import (
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import BallTree, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, SplineTransformer
from sklearn.svm import SVC, SVR, OneClassSVM
from sklearn.tree import DecisionTreeRegressor

from pred_server.store.check import Unsound, check_estimator

X = np.random.default_rng(0).normal(size=(120, 3))
Y = X[:, 0] + X[:, 1] ** 2
CLASSES = np.digitize(Y, [0.0, 1.0])
FRAME = pd.DataFrame(X, columns=list("abc")).assign(c=pd.Series(["x", "y", "z"] * 40, dtype="category"))


def tree_with(field: str, value: int) -> DecisionTreeRegressor:
    estimator = DecisionTreeRegressor(max_depth=4, random_state=0).fit(X, Y)
    state = estimator.tree_.__getstate__()
    state["nodes"][field][0] = value
    estimator.tree_.__setstate__(state)
    return estimator


def changed(estimator: Any, change: Callable[[Any], None]) -> Any:
    change(estimator)
    return estimator


def set_nodes(field: str, value: int) -> Callable[[Any], None]:
    def change(boosting: Any) -> None:
        boosting._predictors[0][0].nodes[field][0] = value

    return change


def drop_preprocessor_column(boosting: Any) -> None:
    name, step, some = boosting._preprocessor.transformers_[1]
    boosting._preprocessor.transformers_[1] = (name, step, np.zeros_like(some))


def tear_tree(neighbours: Any) -> None:
    state = list(neighbours._tree.__getstate__())
    state[2] = state[2].copy()
    state[2]["idx_end"][0] = 10**9
    neighbours._tree.__setstate__(tuple(state))


def widen(forest: Any) -> None:
    other = DecisionTreeRegressor(max_depth=3).fit(np.hstack([X, X]), Y)
    forest.estimators_[1] = other


def narrow_vector(machine: Any) -> None:
    machine._dual_coef_ = machine._dual_coef_[:, :1]


def forge(name: str, value: Any) -> Callable[[Any], None]:
    return lambda estimator: setattr(estimator, name, value)


HOSTILE = {
    "child outside": tree_with("left_child", 10**6),
    "child just outside": tree_with("right_child", 31),
    "child in a circle": tree_with("left_child", 0),
    "feature outside": tree_with("feature", 3),
    "feature below": tree_with("feature", -7),
    "in a search": changed(
        GridSearchCV(DecisionTreeRegressor(), {"max_depth": [2]}).fit(X, Y),
        lambda search: setattr(search, "best_estimator_", tree_with("feature", 9)),
    ),
    "trees of another table": changed(ExtraTreesRegressor(3).fit(X, Y), widen),
    "chosen column outside": changed(
        BaggingRegressor(n_estimators=2, max_features=2).fit(X, Y),
        lambda bagging: bagging.estimators_features_[0].__setitem__(0, 99),
    ),
    "boosting, child outside": changed(HistGradientBoostingRegressor(max_iter=2).fit(X, Y), set_nodes("left", 10**6)),
    "boosting, circle": changed(HistGradientBoostingRegressor(max_iter=2).fit(X, Y), set_nodes("right", 0)),
    "boosting, feature outside": changed(
        HistGradientBoostingRegressor(max_iter=2).fit(X, Y), set_nodes("feature_idx", 3)
    ),
    "boosting, a number as a category": changed(
        HistGradientBoostingRegressor(max_iter=2).fit(X, Y), set_nodes("is_categorical", 1)
    ),
    "boosting, columns left out": changed(
        HistGradientBoostingRegressor(max_iter=2).fit(FRAME, Y), drop_preprocessor_column
    ),
    "rows of a search tree outside": changed(KNeighborsRegressor(algorithm="kd_tree").fit(X, Y), tear_tree),
    "neighbours of another table": changed(KNeighborsRegressor(algorithm="brute").fit(X, Y), forge("_fit_X", X[:, :1])),
    "centres of another table": changed(KMeans(3, n_init=1).fit(X), forge("cluster_centers_", X[:3, :1])),
    "support vectors missing": changed(SVC().fit(X, CLASSES), narrow_vector),
    "sparse matrix": changed(
        LogisticRegression().fit(X, CLASSES).sparsify(),
        lambda linear: linear.coef_.indices.__setitem__(0, 10**6),
    ),
    "sparse matrix of another format": [sparse.coo_matrix(np.eye(3))],
    "coefficients missing": changed(
        SVC().fit(sparse.csr_matrix(X), CLASSES),
        lambda machine: setattr(machine, "_dual_coef_", sparse.csr_matrix(machine._dual_coef_.shape)),
    ),
    "spline": changed(
        SplineTransformer().fit(X), lambda splines: setattr(splines.bsplines_[0], "t", np.zeros(2))
    ),
    "spline, knots not in order": changed(
        SplineTransformer().fit(X), lambda splines: setattr(splines.bsplines_[0], "t", splines.bsplines_[0].t[::-1])
    ),
    "encoder": changed(OneHotEncoder().fit(FRAME[["c"]]), forge("_n_features_outs", [1])),
    "words": changed(CountVectorizer().fit(["a bird", "a cat"]), forge("vocabulary_", {"bird": 10**9})),
    "files": make_pipeline(TfidfVectorizer(input="filename"), LogisticRegression()),
    "not whole": changed(KMeans(3, n_init=1).fit(X), forge("cluster_centers_", np.zeros((2, 2)))),
}  # fmt: skip


@pytest.mark.parametrize("estimator", HOSTILE.values(), ids=HOSTILE)
def test_what_leads_outside_is_refused(estimator: Any) -> None:
    with pytest.raises(Unsound, match=r"^\w+(: | is not whole)"):
        check_estimator(estimator)


@pytest.mark.parametrize(
    "estimator",
    [
        DecisionTreeRegressor(max_leaf_nodes=5),
        DecisionTreeRegressor(ccp_alpha=0.01),
        RandomForestClassifier(3),
        GradientBoostingRegressor(n_estimators=3),
        BaggingRegressor(make_pipeline(SplineTransformer(), DecisionTreeRegressor()), n_estimators=2, max_features=2),
        IsolationForest(n_estimators=3, max_features=2),
        HistGradientBoostingRegressor(max_iter=3, categorical_features=[2]),
        KNeighborsRegressor(algorithm="ball_tree", metric="minkowski", metric_params={"w": np.ones(3)}),
        KNeighborsRegressor(algorithm="ball_tree", metric="seuclidean", metric_params={"V": np.ones(3)}),
        KNeighborsRegressor(algorithm="ball_tree", metric="mahalanobis", metric_params={"VI": np.eye(3)}),
        SVC(kernel="linear"),
        SVR(),
        OneClassSVM(),
        BisectingKMeans(3),
        KBinsDiscretizer(encode="onehot", strategy="uniform"),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_what_scikit_learn_fits_is_sound(estimator: Any) -> None:
    table = np.column_stack([X[:, :2], np.arange(120) % 4])
    check_estimator(estimator.fit(table, CLASSES))


def test_splines_of_a_constant_column_are_sound() -> None:
    check_estimator(SplineTransformer().fit(np.ones((9, 1))))


def test_a_distance_without_its_weights_is_refused() -> None:
    tree = BallTree(X, metric="seuclidean", V=np.ones(3))
    state = list(tree.__getstate__())
    power, _, matrix = state[-2].__getstate__()
    state[-2].__setstate__((power, np.ones(1), matrix))
    tree.__setstate__(tuple(state))
    with pytest.raises(Unsound, match="its distance is of another table"):
        check_estimator(tree)


def test_a_sparse_matrix_that_is_sound_is_taken() -> None:
    check_estimator([sparse.csr_array(np.eye(3)), sparse.csc_matrix(np.eye(3)), {"a": (1, "text")}])
