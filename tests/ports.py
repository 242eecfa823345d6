"""Addresses where nobody listens yet."""

from pred_server.ops.ray_cluster import free_port

__all__ = ["free_address", "free_port"]


def free_address() -> str:
    """Return an address of this machine whose port is free now."""
    return f"127.0.0.1:{free_port()}"
