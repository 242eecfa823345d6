"""A rival: Seldon's MLServer, by tritonclient."""

from pred_server.lab.ways.open_inference import OpenInference


class MLServer(OpenInference):
    name, title = "mlserver", "MLServer"
