"""The generator in Go, `bin/loadgen`: it measures what the one in Python measures."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest

from pred_server.checkout import ROOT
from pred_server.errors import InvalidInput, ServerStartError
from pred_server.lab import native
from pred_server.lab.cpu import cpu_ms
from pred_server.lab.experiments import Experiment, running
from pred_server.lab.load import Generator, Segment
from pred_server.lab.native import LOADGEN
from pred_server.lab.ways import Arm, Target, messages_of, start_own
from pred_server.tutorial.background import Server
from tests.lab.loads import check_schedules, stopped_meanwhile

MESSAGE = b"x" * 200
TABLE = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]})


@pytest.fixture(scope="module", autouse=True)
def built(go: Callable[..., str]) -> None:
    go("build", "-o", str(LOADGEN), "./gateway/loadgen")


@pytest.fixture(scope="module")
def echo() -> Iterator[Server]:
    with start_own("echo", "sum") as server:
        yield server


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    with Generator() as started:
        yield started


def target(echo: Server, name: str = "echo", **options: object) -> Target:
    made = Target(Arm(name, "echo", generator="go"), echo.address, (MESSAGE,), pids=(echo.pid,))
    return replace(made, **options)  # type: ignore[arg-type]


def test_both_generators_say_the_same(echo: Server, sum_server: Server, generator: Generator) -> None:
    arms = [
        Arm("unary", encoding="tensor"),
        Arm("stream", encoding="csv", chunk_rows=1),
        Arm("echo", "echo"),
        Arm("refused", encoding="csv"),
        Arm("late", "echo"),
        Arm("nobody", "echo"),
    ]
    addresses = {"serve": sum_server.address, "echo": echo.address}
    targets = [
        Target(replace(arm, name=f"{arm.name}, {generator}", generator=generator), addresses[arm.server], messages)
        for arm in arms
        for messages in [(b"\xff",) if arm.name == "refused" else messages_of(arm, TABLE)]
        for generator in ("python", "go")
    ]
    special = {
        "echo": {"reply_bytes": 7},
        "late": {"timeout_s": 1e-6, "messages": (bytes(20_000_000),)},
        "nobody": {"address": "127.0.0.1:1"},
    }
    targets = [replace(made, **special.get(made.arm.name.split(", ")[0], {})) for made in targets]
    segments = [Segment(made.arm.name, 6, callers=2, labels={"label": 5}) for made in targets]
    segments += [Segment(made.arm.name, 6, rate_per_s=300, labels={"label": 6}) for made in targets]
    found = generator.run(targets, segments)
    found[["arm", "generator"]] = found["arm"].str.split(", ", expand=True).to_numpy()
    assert (found.groupby(["arm", "generator", "label"]).size() == 6).all()
    same = ["arm", "label", "call", "code", "ok", "reply_bytes", "request_bytes"]
    python, go = (
        found.loc[found["generator"] == name, same].sort_values(same[:3], ignore_index=True)
        for name in ("python", "go")
    )
    pd.testing.assert_frame_equal(python, go)
    codes = go.groupby("arm")["code"].unique().map(list).to_dict()
    assert codes.pop("refused") not in (["OK"], ["UNAVAILABLE"])
    assert codes == {
        "unary": ["OK"], "stream": ["OK"], "echo": ["OK"], "late": ["DEADLINE_EXCEEDED"], "nobody": ["UNAVAILABLE"],
    }  # fmt: skip
    assert set(go.loc[go["arm"] == "echo", "reply_bytes"]) == {7}, "the echo is asked by metadata"
    known = found.set_index(["generator", "arm"]).notna().groupby(level=[0, 1]).any()
    differ = (known.loc["python"] != known.loc["go"]).any()
    assert set(differ[differ].index) == {"redials", "client_peak_mib"}, "Go knows its connections, Python its memory"
    timed = found[found["arm"].isin(["unary", "stream"])]
    assert (timed[["decode_ms", "predict_ms", "encode_ms"]] > 0).all(axis=None)
    assert (found["first_ms"].notna() == (found["arm"] == "stream")).all()
    assert (found["first_ms"] > 0).eq(found["arm"] == "stream").all()
    assert (found["latency_ms"] >= found["service_ms"]).all()
    closed = found[found["label"] == 5]
    assert closed["latency_ms"].equals(closed["service_ms"])
    assert found["server_cpu_ms"].isna().all(), "no processes were named"


def test_posts_and_streams_of_others(generator: Generator) -> None:
    experiment = Experiment(
        tuple(
            Arm(f"{way}, {by}", way, generator=by, callers=3, calls=6)
            for way in ("rest", "flight", "gateway", "article")
            for by in ("python", "go")
        ),
        model="sum",
        blocks=1,
        pin=False,
    )
    with running(experiment) as bench:
        found = bench.measure(2, repetition=0)
    assert set(found["code"]) == {"OK"}
    found["way"] = found["server"]
    assert (found.groupby("way")["reply_bytes"].nunique() == 1).all(), "both get the same reply"
    assert (found["server_cpu_ms"] > 0).all()
    assert (found.loc[found["generator"] == "go", "redials"] == 0).all()


def test_both_generators_encrypt_and_deal_out_calls_over_a_list() -> None:
    arms = [
        Arm(f"{way}, {by}", way, generator=by, flags=flags)
        for way, flags in (("tls", ()), ("tls_token", ()), ("serve", ("--workers", "2")))
        for by in ("python", "go")
    ]
    experiment = Experiment(tuple(arms), model="sum", blocks=1, calls=40, pin=False)
    with running(experiment) as bench:
        targets = bench.prepare(1).targets
        found = bench.measure(1, repetition=0)
        assert set(found["code"]) == {"OK"}
        for by in ("python", "go"):
            plain, closed, dealt = (targets[f"{way}, {by}"] for way in ("tls", "tls_token", "serve"))
            assert plain.ca == closed.ca and not dealt.ca
            others = [
                replace(plain, ca=""),
                replace(closed, arm=replace(plain.arm, name="without a token")),
                replace(dealt, arm=replace(dealt.arm, name="plain"), address=plain.address),
            ]
            refused = bench.generator.run(others, [Segment(made.arm.name, 1) for made in others])
            assert list(refused["code"]) == ["UNAVAILABLE", "UNAUTHENTICATED", "UNAVAILABLE"]
            shares = _shares(bench.generator, dealt)
            print(by, shares)
            assert sum(shares) > 0 and min(shares) > 0.4 * sum(shares), (
                "each of two workers computes for half of the calls"
            )


def _shares(generator: Generator, dealt: Target) -> list[float]:
    """What the processes that listen compute for 1,000 calls, in ms."""
    workers = [
        child.pid
        for child in psutil.Process(dealt.pids[0]).children()
        if any(one.status == psutil.CONN_LISTEN for one in child.net_connections())
    ]
    before = [cpu_ms([pid]) for pid in workers]
    assert set(generator.run([dealt], [Segment(dealt.arm.name, 1_000, callers=4)])["code"]) == {"OK"}
    return [cpu_ms([pid]) - ms for pid, ms in zip(workers, before, strict=True)]


def test_what_it_cannot_call_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for arm, sentence in (
        (Arm("bare", "tcp", generator="go"), "bare: the generator in Go speaks gRPC and HTTP, and 'tcp' is neither"),
        (Arm("table", "flight", frame=True, generator="go"), "table: only Python calls with a DataFrame"),
    ):
        with pytest.raises(InvalidInput, match=sentence), running(Experiment((arm,), model="sum")):
            pass
    with pytest.raises(InvalidInput, match="no generator 'rust'; there is python and go"):
        Arm("a", generator="rust")
    monkeypatch.setattr(native, "LOADGEN", ROOT / "bin" / "nothing")
    with (
        pytest.raises(ServerStartError, match="run `make gateway`"),
        running(Experiment((Arm("a", generator="go"),), model="sum")),
    ):
        pass


def test_schedules_are_kept(echo: Server, generator: Generator) -> None:
    check_schedules(generator, target(echo))


def test_a_stopped_server_shows_as_response_time(echo: Server, generator: Generator) -> None:
    """Each call that was due during the stop waited for its end: that is arithmetic, whatever the machine does."""
    rate, calls, stop_s = 500, 1_000, 0.3
    segment = Segment("echo", calls, rate_per_s=rate, arrivals="constant")
    calls_made, _ = stopped_meanwhile(echo.pid, lambda: generator.run([target(echo)], [segment]), stop_s, busy_s=0.03)
    done_ns, due_ns = calls_made["done_ns"].to_numpy(), calls_made["scheduled_ns"].to_numpy()
    pauses_ns = np.diff(np.sort(done_ns))
    last_before_ns = np.sort(done_ns)[pauses_ns.argmax()]
    over_ns = last_before_ns + pauses_ns.max()  # the first answer after the stop
    assert over_ns - last_before_ns >= 0.9 * stop_s * 1e9
    caught = (due_ns > last_before_ns) & (due_ns < over_ns)
    assert caught.sum() == pytest.approx(rate * (over_ns - last_before_ns) / 1e9, abs=2), "it kept sending, on time"
    waited_ms = calls_made["latency_ms"].to_numpy()[caught]
    assert (waited_ms >= (over_ns - due_ns[caught]) / 1e6).all(), "none is shorter than what was left of the stop"
    assert waited_ms.max() >= 0.9 * stop_s * 1e3


def test_a_generator_that_is_the_bottleneck_says_so(echo: Server, generator: Generator) -> None:
    too_fast = Segment("echo", 5_000, rate_per_s=2_000_000, arrivals="constant")
    found = generator.run([target(echo)], [too_fast])
    assert found["late_share"].iloc[0] > 0.01
    assert not found["valid"].any()
    assert len(found) == 5_000, "all the same, every call is kept"

    nobody = target(echo, "nobody", address="127.0.0.1:1")  # who does not keep the generator waiting
    for _ in range(10):  # another program may have taken the core
        with Generator([max(os.sched_getaffinity(0))]) as pinned:
            closed = pinned.run([nobody], [Segment("nobody", 20_000, callers=4)])
        if closed["busy_share"].iloc[0] > 0.8:
            break
    assert closed["busy_share"].iloc[0] > 0.8
    assert not closed["valid"].any()
    assert set(closed["code"]) == {"UNAVAILABLE"}


def test_the_server_s_own_computing_is_counted(echo: Server, generator: Generator) -> None:
    process = psutil.Process(echo.pid)
    before = process.cpu_times()
    found = generator.run([target(echo)], [Segment("echo", 2_000, callers=8)])
    after = process.cpu_times()
    counted_s = found["server_cpu_ms"].sum() / 1e3
    used_s = after.user + after.system - before.user - before.system
    assert counted_s == pytest.approx(used_s, abs=0.05), "the system counts in hundredths"


def test_it_ends_with_the_process_that_started_it(echo: Server) -> None:
    code = (
        "import sys, threading\n"
        "from pred_server.lab.load import Generator, Segment\n"
        "from pred_server.lab.ways import Arm, Target\n"
        "generator = Generator()\n"
        "endless = Segment('echo', 1_000_000, rate_per_s=100)\n"
        "target = Target(Arm('echo', 'echo', generator='go'), sys.argv[1], (b'x',))\n"
        "threading.Thread(target=generator.run, args=([target], [endless]), daemon=True).start()\n"
        "print(generator.pid, flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, echo.address], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        python = psutil.Process(int(parent.stdout.readline()))
        while not (children := python.children()):
            assert parent.poll() is None
            time.sleep(0.01)
        parent.kill()
    assert children[0].name() == "loadgen" or children[0].exe() == str(LOADGEN)
    assert psutil.wait_procs([python, *children], timeout=30)[1] == []


def test_it_ends_when_the_generator_is_closed(echo: Server) -> None:
    with Generator() as generator:
        generator.run([target(echo)], [Segment("echo", 10)])
        assert psutil.Process(generator.pid).children() == [], "one serves one run"
    with pytest.raises(RuntimeError, match="bin/loadgen: a segment has at least one call"), Generator() as generator:
        generator.run([target(echo)], [Segment("echo", 0)])
