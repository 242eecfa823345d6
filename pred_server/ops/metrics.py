"""What one watches, as Prometheus reads it: the counts of calls, and what the server holds, at a port of their own."""

import asyncio
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from socketserver import ThreadingMixIn
from threading import Event, Thread
from time import perf_counter
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.registry import Collector

from pred_server.errors import ServerStartError
from pred_server.guard.admission import Admission
from pred_server.limits import Limits
from pred_server.ops.counts import Calls
from pred_server.ops.reload import Source
from pred_server.ops.security import Access
from pred_server.wire.address import Address

# How long a reader of the metrics may keep a thread waiting, in seconds.
READER_S = 10
# How long the event loop may take to say that it is there. Where it is held up for longer, nobody waits for it.
LOOP_S = 1.0


class Served(Protocol):
    """What is told of a model."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def identity(self) -> str: ...

    @property
    def engine(self) -> Any: ...


class Service(Protocol):
    """What is told of the service, as `server.service.PredictionService` has it."""

    @property
    def models(self) -> Iterable[Served]: ...

    @property
    def queued_rows(self) -> int: ...


class Metrics(Collector):
    """Tells the counts of `calls`, and what the others hold at that moment. It runs in a thread of the reader's."""

    def __init__(
        self,
        calls: Calls,
        limits: Limits,
        admission: Admission,
        access: Access,
        service: Service,
        sources: Sequence[Source] = (),
    ):
        self._calls = calls
        self._limits = limits
        self._admission = admission
        self._access = access
        self._service = service
        self._sources = sources
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics. To copy a dict is one step for the event loop, which goes on adding meanwhile."""
        calls = CounterMetricFamily(
            "pred_server_calls", "calls that ended", labels=("rpc", "model", "encoding", "code")
        )
        for labels, count in list(self._calls.ended.items()):
            calls.add_metric(labels, count)
        yield calls
        refusals = CounterMetricFamily("pred_server_refusals", "calls over a limit, by its flag", labels=("limit",))
        for limit, count in list(self._calls.refusals.items()):
            refusals.add_metric((limit,), count)
        yield refusals
        of_models = [of for of in list(self._calls.of_models.values()) if of.label]
        rows = CounterMetricFamily("pred_server_rows", "rows that were read", labels=("model",))
        seconds = HistogramMetricFamily("pred_server_call_seconds", "time of a call", labels=("rpc", "model"))
        phases = HistogramMetricFamily(
            "pred_server_phase_seconds", "time of a call's phase; of a stream's, the sum", labels=("phase", "model")
        )
        batches = HistogramMetricFamily(
            "pred_server_batch_rows", "largest number of rows with which a call was computed", labels=("model",)
        )
        for of in of_models:
            rows.add_metric((of.label,), of.rows)
            batches.add_metric((of.label,), of.batch_rows.buckets(), of.batch_rows.total)
            for rpc, histogram in list(of.seconds.items()):
                seconds.add_metric((rpc, of.label), histogram.buckets(), histogram.total)
            for phase, histogram in list(of.phases.items()):
                phases.add_metric((phase, of.label), histogram.buckets(), histogram.total)
        yield from (rows, seconds, phases, batches)
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "pred_server_loop_delay_seconds",
            "how long the event loop just took to answer, 1 second at the most: health waits as long",
            self._loop_delay_s(),
        )
        tickets = list(self._admission.tickets)
        for name, help, value in (
            ("calls_in_flight", "calls that have no answer yet", len(tickets)),
            ("bytes_in_flight", "bytes of their messages", sum(ticket.n_bytes for ticket in tickets)),
            ("queued_rows", "rows that wait for a model", self._service.queued_rows),
            ("stopping", "1 from the moment at which the server stops", self._admission.is_stopping),
        ):
            yield GaugeMetricFamily(f"pred_server_{name}", help, value)
        limits = GaugeMetricFamily("pred_server_limit", "the limits, by their flags", labels=("limit",))
        for limit in fields(Limits):
            limits.add_metric((limit.name,), getattr(self._limits, limit.name))
        yield limits
        models = GaugeMetricFamily(
            "pred_server_model_info",
            "1 for each model that is served",
            labels=("model", "name", "version", "schema", "digest", "engine"),
        )
        for model in self._service.models:
            label, schema, digest = model.identity.rsplit("/", 2)
            models.add_metric((label, model.name, model.version, schema, digest, model.engine.name), 1)
        yield models
        broken = GaugeMetricFamily(
            "pred_server_files_broken", "1 for files that changed for the worse", labels=("files",)
        )
        for name, kept in (("certificate", self._access.certificates), ("tokens", self._access.tokens)):
            if kept:
                broken.add_metric((name,), kept.is_broken)
        for model, source in zip(self._service.models, self._sources, strict=False):
            broken.add_metric((f"model {model.name}",), source.is_refused)
        yield broken
        if self._access.certificates:
            yield GaugeMetricFamily(
                "pred_server_certificate_not_after_seconds",
                "when the certificate expires, in Unix time",
                self._access.certificates.value.not_after_s,
            )

    def _loop_delay_s(self) -> float:
        answered, start_s = Event(), perf_counter()
        self._loop.call_soon_threadsafe(answered.set)
        answered.wait(LOOP_S)
        return min(LOOP_S, perf_counter() - start_s)


class _Handler(WSGIRequestHandler):
    timeout = READER_S

    def log_message(self, format: str, *args: object) -> None:
        """Leave it out of the log: somebody reads every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


def publish(metrics: Metrics, address: Address, place: int = 0) -> Address:
    """Serve the metrics over HTTP, in threads, until the process ends. Returns the address with its port.

    Parameters
    ----------
    place : of a worker among the others, which is added to the port: each is scraped for itself

    Raises
    ------
    ServerStartError
        The address cannot be used.
    """
    if address.path:
        raise ServerStartError(f"--metrics {address}: Prometheus reads from ports alone; write HOST:PORT")
    own = address.with_port(address.port and address.port + place)
    registry = CollectorRegistry()
    registry.register(metrics)
    ProcessCollector(registry=registry)
    kind = _Server6 if ":" in own.host else _Server
    try:
        server = make_server(own.host, own.port, make_wsgi_app(registry), kind, _Handler)
    except OSError as error:
        raise ServerStartError(f"--metrics {own} cannot be used: {error.strerror}") from None
    except OverflowError:
        raise ServerStartError(
            f"--metrics {address}: worker {place + 1} needs a port above 65535; use a lower one"
        ) from None
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return own.with_port(server.server_port)
