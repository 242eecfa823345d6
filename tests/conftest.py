"""Fixtures that several rooms share: real flights, the trained model, running servers."""

import os
from collections.abc import Callable, Iterator

import hypothesis
import pandas as pd
import pytest

from pred_server import Model, load, serve
from pred_server.checkout import FLIGHTS
from pred_server.tutorial import stubs
from pred_server.tutorial.background import GATEWAY, Server

# A busy machine must not fail a property: an example may take as long as it takes.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def flights() -> pd.DataFrame:
    """10,000 real flights, without the arrival delay."""
    return pd.read_parquet(FLIGHTS).drop(columns="arr_delay").sample(10_000, random_state=7)


@pytest.fixture(scope="session")
def flights_model() -> Model:
    return load("flights")


@pytest.fixture(scope="session")
def flights_server() -> Iterator[Server]:
    with serve("flights") as server:
        yield server


@pytest.fixture(scope="session")
def sum_server() -> Iterator[Server]:
    with serve("sum") as server:
        yield server


@pytest.fixture(scope="session")
def go() -> Callable[..., str]:
    """Runs Go, with bin/gateway built. Where Go's modules cannot be reached its tests are left out, but not in CI."""
    try:
        stubs.go("build", "-o", str(GATEWAY), "./gateway/cmd/gateway")
    except stubs.GoMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"Go or its modules cannot be reached: {error}")
    return stubs.go
