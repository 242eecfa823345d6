"""A Ray cluster of two nodes on this machine, until its standard input closes: `python tests/ops/ray_nodes.py PORT`.

SIGUSR1 kills the second node at once, as a machine that loses its power; SIGUSR2 adds another in its place.

Parameters
----------
PORT : where the Serve proxy of the second node listens: on one machine, it cannot be the port of the first
"""

import os
import signal
import sys
from typing import Any

from pred_server.limits import MIB
from pred_server.ops.ray_cluster import ENVIRONMENT

os.environ.update(ENVIRONMENT)

from ray.cluster_utils import Cluster

# One CPU, so one replica: Serve has a proxy on a node with a replica.
NODE = {"num_cpus": 1, "object_store_memory": 100 * MIB, "node_ip_address": "127.0.0.1", "include_dashboard": False}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    second = {**NODE, "env_vars": {"RAY_SERVE_WORKER_PROXY_GRPC_PORT": sys.argv[1]}}
    nodes = [cluster.add_node(**second)]

    def kill(*_: Any) -> None:
        cluster.remove_node(nodes.pop(), allow_graceful=False)

    signal.signal(signal.SIGUSR1, kill)
    signal.signal(signal.SIGUSR2, lambda *_: nodes.append(cluster.add_node(**second)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    print(f"ray ready on {cluster.address} (2 nodes)", flush=True)
    try:
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
