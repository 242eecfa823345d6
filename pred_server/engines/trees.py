"""Converts scikit-learn's trees to ONNX in double precision: skl2onnx keeps thresholds and leaves in float32.

scikit-learn rounds a value to float32 and compares it with a threshold in float64 (gradient boosting by histograms does
not round). The graph does the same. It sums the leaves in float64 and in the same order. A missing value goes where
scikit-learn sends it.
"""

from typing import Any, NamedTuple

import numpy as np

from pred_server.engines.nodes import ML, Graph, tensor


class Tree(NamedTuple):
    """The nodes of one tree, as arrays of shape (n_nodes,); a leaf adds its value to one output."""

    is_leaf: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    missing_left: np.ndarray
    value: np.ndarray
    output: int


def of_tree(tree: Any, value: np.ndarray, output: int = 0, features: np.ndarray | None = None) -> Tree:
    """Return a tree of scikit-learn's.

    Parameters
    ----------
    value : array of shape (n_nodes,); the leaves' places are used
    features : the places of the columns that the tree was given, where it was not given all
    """
    places = tree.feature if features is None else np.asarray(features)[np.maximum(tree.feature, 0)]
    left, right = tree.children_left, tree.children_right
    return Tree(left == -1, places, tree.threshold, left, right, tree.missing_go_to_left, value, output)


def of_histogram_tree(predictor: Any, output: int) -> Tree:
    """Return a tree of gradient boosting by histograms. Raises ValueError where it splits by categories."""
    nodes = predictor.nodes
    if nodes["is_categorical"].any():
        raise ValueError("trees that split by categories")
    return Tree(
        nodes["is_leaf"].astype(bool),
        nodes["feature_idx"],
        nodes["num_threshold"],
        nodes["left"],
        nodes["right"],
        nodes["missing_go_to_left"],
        nodes["value"],
        output,
    )


def add_trees(graph: Graph, table: str, trees: list[Tree], n_outputs: int) -> str:
    """Add a node that sums the leaves of the trees, in their order; its result has shape (n_rows, n_outputs)."""
    columns: dict[str, list[np.ndarray]] = {}
    roots, n_inner, n_leaves = [], 0, 0
    for tree in map(_with_inner_node, trees):
        inner = ~tree.is_leaf
        place = np.where(inner, np.cumsum(inner) - 1 + n_inner, np.cumsum(tree.is_leaf) - 1 + n_leaves)
        left, right = tree.left[inner].astype(int), tree.right[inner].astype(int)
        part = {
            "nodes_featureids": tree.feature[inner],
            "nodes_splits": tree.threshold[inner],
            "nodes_missing_value_tracks_true": tree.missing_left[inner],
            "nodes_truenodeids": place[left],
            "nodes_trueleafs": tree.is_leaf[left],
            "nodes_falsenodeids": place[right],
            "nodes_falseleafs": tree.is_leaf[right],
            "leaf_weights": tree.value[tree.is_leaf],
            "leaf_targetids": np.full(np.count_nonzero(tree.is_leaf), tree.output),
        }
        for name, values in part.items():
            columns.setdefault(name, []).append(values)
        roots.append(n_inner)
        n_inner += len(part["nodes_splits"])
        n_leaves += len(part["leaf_weights"])
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    numbers: dict[str, Any] = {
        name: tensor(joined.pop(name).astype(float)) for name in ("nodes_splits", "leaf_weights")
    }
    places = {name: values.astype(int).tolist() for name, values in joined.items()}
    modes = tensor(np.zeros(n_inner, np.uint8))  # 0: left, if the value is at most the threshold
    return graph.add(
        "TreeEnsemble", table, domain=ML, tree_roots=roots, n_targets=n_outputs, nodes_modes=modes, **numbers, **places
    )


def _with_inner_node(tree: Tree) -> Tree:
    """Return the tree; one that is only a leaf gets a node above it, as ONNX wants it."""
    if not tree.is_leaf[0]:
        return tree
    none = np.zeros(2, int)
    return Tree(np.array([False, True]), none, none, none + 1, none + 1, none, np.repeat(tree.value[0], 2), tree.output)
