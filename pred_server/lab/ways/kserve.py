"""A rival: KServe's Python server, by tritonclient."""

from pred_server.lab.ways.open_inference import OpenInference


class KServe(OpenInference):
    name, title = "kserve", "KServe"
