"""The types that model.skops may hold without `--trust`, beyond those that skops itself trusts, each with a reason.

skops trusts scikit-learn's estimators, NumPy's arrays and the ufuncs of NumPy and SciPy. A forged file may do three
things with a further type: make it and set any attributes, call it with any values while the file is loaded, and have
an estimator call it with any table. So a type stands here only where none of the three runs code of the file's, opens
a file or a connection, or starts a process. Whether the numbers inside lead out of an array is another question, which
`check` answers.
"""

from collections.abc import Iterator

_DISTANCES = (
    "BrayCurtis", "Canberra", "Chebyshev", "Dice", "Euclidean", "Hamming", "Haversine", "Jaccard", "Mahalanobis",
    "Manhattan", "Minkowski", "RogersTanimoto", "RussellRao", "SEuclidean", "SokalSneath",
)  # fmt: skip
_COMPUTE_A_SCORE = "compute a number, or one for each column, from two arrays"

# A reason, the module, and the names of its types.
REVIEWED: list[tuple[str, str, str]] = [
    # Of NumPy, SciPy and Python
    ("names a type of numbers", "numpy", "dtype"),
    ("compute with the array that they get", "numpy", "clip max mean median min nan_to_num round sum"),
    ("makes an array, as a spline keeps it", "scipy._lib.array_api_compat.numpy._aliases", "asarray"),
    ("hold numbers, read without pickle; check compares their places", "scipy.sparse._csr", "csr_array csr_matrix"),
    ("hold numbers, read without pickle; check compares their places", "scipy.sparse._csc", "csc_array csc_matrix"),
    ("evaluates a spline; check compares its arrays", "scipy.interpolate._bsplines", "BSpline"),
    ("calls a function of the same file, which must be trusted itself", "functools", "partial"),
    ("is a dict; LightGBM keeps its scores in one", "collections", "OrderedDict"),
    # Trees and neighbours: arrays of numbers, which `check` follows
    ("holds the nodes of a tree", "sklearn.tree._tree", "Tree"),
    ("holds the nodes of a tree", "sklearn.ensemble._hist_gradient_boosting.predictor", "TreePredictor"),
    ("holds rows in order of place", "sklearn.neighbors._kd_tree", "KDTree"),
    ("holds rows in order of place", "sklearn.neighbors._ball_tree", "BallTree"),
    ("holds centres in a tree", "sklearn.cluster._bisect_k_means", "_BisectingTree"),
    ("fit clusters to arrays", "sklearn.cluster._kmeans", "_kmeans_single_elkan _kmeans_single_lloyd"),
    (
        "compute from numbers; PyFuncDistance, which calls a function, is left out",
        "sklearn.metrics._dist_metrics",
        " ".join(f"{name}Distance{bits}" for name in _DISTANCES for bits in (32, 64)),
    ),
    # Parts of estimators: attributes that are numbers, and methods that compute with arrays
    ("hold a state of numbers", "sklearn.neural_network._stochastic_optimizers", "AdamOptimizer SGDOptimizer"),
    ("computes a loss from two arrays", "sklearn._loss.loss", "HalfTweedieLoss HalfTweedieLossIdentity"),
    (
        "call an estimator of the same file, and map its answer by a formula",
        "sklearn.calibration",
        "_CalibratedClassifier _SigmoidCalibration _TemperatureScaling",
    ),
    ("returns a constant", "sklearn.multiclass", "_ConstantPredictor"),
    ("computes with arrays", "sklearn.gaussian_process._gpc", "_BinaryGaussianProcessClassifierLaplace"),
    (
        "compute with arrays; PairwiseKernel's metric is one by name, or a function that must be trusted itself",
        "sklearn.gaussian_process.kernels",
        "CompoundKernel ConstantKernel DotProduct ExpSineSquared Exponentiation Hyperparameter Matern PairwiseKernel "
        "Product RBF RationalQuadratic Sum WhiteKernel",
    ),
    ("imputes by estimators of the same file", "sklearn.impute._iterative", "IterativeImputer _ImputerTriplet"),
    ("chooses columns by their types or names", "sklearn.compose._column_transformer", "make_column_selector"),
    (
        _COMPUTE_A_SCORE,
        "sklearn.feature_selection._univariate_selection",
        "chi2 f_classif f_oneway f_regression r_regression",
    ),
    (_COMPUTE_A_SCORE, "sklearn.feature_selection._mutual_info", "mutual_info_classif mutual_info_regression"),
    ("checks an array", "sklearn.utils.validation", "check_array"),
    ("is a dict", "sklearn.utils._bunch", "Bunch"),
    # Searches: what only fitting uses, and predicting keeps
    (
        "choose the best of several fitted estimators",
        "sklearn.model_selection._search_successive_halving",
        "HalvingGridSearchCV HalvingRandomSearchCV _SubsampleMetaSplitter",
    ),
    (
        "deal places of rows out",
        "sklearn.model_selection._split",
        "GroupKFold GroupShuffleSplit KFold LeaveOneGroupOut LeaveOneOut LeavePGroupsOut LeavePOut PredefinedSplit "
        "RepeatedKFold RepeatedStratifiedKFold ShuffleSplit StratifiedGroupKFold StratifiedKFold "
        "StratifiedShuffleSplit TimeSeriesSplit _CVIterableWrapper",
    ),
    (
        "call a metric, which must be trusted itself, with an estimator's answer",
        "sklearn.metrics._scorer",
        "_CurveScorer _MultimetricScorer _PassthroughScorer _Scorer",
    ),
    ("name arguments", "sklearn.utils._metadata_requests", "MetadataRequest MethodMetadataRequest"),
    (
        _COMPUTE_A_SCORE,
        "sklearn.metrics._classification",
        "accuracy_score balanced_accuracy_score brier_score_loss d2_brier_score d2_log_loss_score f1_score fbeta_score "
        "hamming_loss jaccard_score log_loss matthews_corrcoef precision_score recall_score zero_one_loss",
    ),
    (
        _COMPUTE_A_SCORE,
        "sklearn.metrics._ranking",
        "average_precision_score ndcg_score roc_auc_score top_k_accuracy_score",
    ),
    (
        _COMPUTE_A_SCORE,
        "sklearn.metrics._regression",
        "d2_absolute_error_score d2_pinball_score d2_tweedie_score explained_variance_score max_error "
        "mean_absolute_error mean_absolute_percentage_error mean_gamma_deviance mean_pinball_loss "
        "mean_poisson_deviance mean_squared_error mean_squared_log_error mean_tweedie_deviance median_absolute_error "
        "r2_score root_mean_squared_error root_mean_squared_log_error",
    ),
    (_COMPUTE_A_SCORE, "sklearn.metrics._scorer", "negative_likelihood_ratio positive_likelihood_ratio"),
    (
        _COMPUTE_A_SCORE,
        "sklearn.metrics.cluster._supervised",
        "adjusted_mutual_info_score adjusted_rand_score completeness_score fowlkes_mallows_score homogeneity_score "
        "mutual_info_score normalized_mutual_info_score rand_score v_measure_score",
    ),
]


def _names() -> Iterator[str]:
    for _, module, types in REVIEWED:
        yield from (f"{module}.{name}" for name in types.split())


TRUSTED_TYPES = frozenset(_names())


def flags(types: list[str]) -> str:
    """Return what to write so that these types are trusted, on the command line and in Python."""
    return f"{' '.join(f'--trust {name}' for name in types)} (in Python: trust={types})"
