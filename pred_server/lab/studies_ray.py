"""The declared experiment on Ray Serve: what its proxy and its replica's process cost, beside one plain server."""

from dataclasses import replace

from pred_server.lab.arms import ROOMY
from pred_server.lab.experiments import Experiment
from pred_server.lab.findings import OURS
from pred_server.lab.ways import Arm

RAY = "Ray Serve, one replica"


def ray(quick: bool = False) -> Experiment:
    """Ready bytes of the model `linear`, to a plain server and through Ray's proxy to one replica, call by call."""
    ours = Arm(OURS, encoding="tensor", flags=ROOMY)
    theirs = replace(ours, name=RAY, server="ray")
    again = replace(ours, name=f"{OURS}, again", process=1)
    return Experiment(
        (ours, theirs, again),
        ((theirs.name, ours.name),),
        (again.name, ours.name),
        "ray",
        "linear",
        (1, 1_000, 100_000),
        blocks=3 if quick else 10,
        calls=8 if quick else 30,
        most_rows=400_000 if quick else 2_000_000,
        pin=False,  # Ray has some ten processes
    )
