"""The declared experiment on layers in front of a model: what each adds to a call, and what a second worker gives."""

from dataclasses import replace

from pred_server.lab.arms import ROOMY, installed, trained
from pred_server.lab.experiments import Experiment
from pred_server.lab.findings import callers_suffix
from pred_server.lab.findings_service import DIRECT, METRICS, ONE_PROCESS, TEXT, TWO_WORKERS
from pred_server.lab.ways import WAYS, Arm

CROWD = 32
TWO = ("--workers", "2", "--spares", "0")  # a spare that starts would compute beside the first blocks


def layers(quick: bool = False) -> Experiment:
    """Ready bytes of `linear` through one layer after the other; and `boosting` for 32 callers, by workers.

    The gateway takes text alone, so text without it stands beside it. Ray Serve is left out where it is not installed.
    """
    direct = Arm(DIRECT, encoding="tensor", flags=ROOMY, generator="go")
    counted = replace(direct, name=METRICS, flags=(*ROOMY, "--metrics", "127.0.0.1:0"))
    text = replace(direct, name=TEXT, encoding="csv")
    titles = {"tls": "TLS", "tls_token": "TLS and a token", "ray": "Ray Serve, one replica"}
    optional = [
        replace(direct, name=titles[way.name], server=way.name)
        for way in installed((WAYS[name] for name in titles), quick)
    ]
    gateway = replace(text, name="gateway, text", server="gateway")
    workers = replace(direct, name=TWO_WORKERS, flags=(*ROOMY, *TWO))
    echo = replace(direct, name="echo", server="echo", flags=())
    one = replace(
        direct, name=ONE_PROCESS + callers_suffix(CROWD), model=trained("boosting"), rows=(1,), callers=CROWD,
        calls=CROWD * (4 if quick else 20),
    )  # fmt: skip
    two = replace(one, name=TWO_WORKERS + callers_suffix(CROWD), flags=workers.flags)
    again = replace(direct, name=f"{DIRECT}, again", process=1)
    against = [
        *((arm, direct) for arm in (counted, *optional, text, gateway, workers, echo)),
        (gateway, text),
        (one, two),
    ]
    return Experiment(
        (direct, counted, *optional, text, gateway, workers, echo, again, one, two),
        tuple((arm.name, base.name) for arm, base in against),
        (again.name, direct.name),
        "layers",
        "linear",
        (1, 1_000, 100_000),
        blocks=3 if quick else 5,
        calls=8 if quick else 40,
        most_rows=100_000 if quick else 400_000,
        warmup=50,
        pin=False,  # most layers are processes of their own; Ray has some ten
    )
