"""Under attack, good callers get what is right, health answers, and memory comes back. `make attack` has all kinds."""

import threading
from collections.abc import Iterator

import pytest

from pred_server import serve
from pred_server.limits import MIB, Limits
from pred_server.tutorial.background import Server
from tests.attacks.attack import Attack, Attacker
from tests.attacks.beside import KEPT_MIB, beside, resident_mib, warm_up
from tests.attacks.kinds import HEAVY, KINDS
from tests.waits import comes_true

IN_CI = (
    "unread_replies",
    "half_messages",
    "empty_columns",
    "arrow_nulls",
    "small_gzip_bombs",
    "bad_last_row",
    "cancel_storm",
    "mixed",
)
ATTACKERS, SECONDS = 2, 2.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("sum", "--model", "flights") as running:
        warm_up(running)
        yield running


def test_there_are_many_kinds_and_each_says_what_it_does() -> None:
    assert len(KINDS) >= 30
    assert set(IN_CI) | set(HEAVY) <= set(KINDS)
    sentences = [attack.__doc__ or "" for attack in KINDS.values()]
    assert all(sentence.endswith(".") for sentence in sentences)
    assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize("kind", IN_CI)
def test_nobody_else_is_harmed(kind: str, server: Server) -> None:
    with beside(server.address, server.pid) as outcome:
        attackers = [Attacker(server.address, kind, SECONDS, seed) for seed in range(ATTACKERS)]
        try:
            reports = [attacker.report() for attacker in attackers]
        finally:
            for attacker in attackers:
                attacker.close()
    assert outcome.wrong == []
    assert outcome.unhealthy == []
    assert min(outcome.n_good, len(outcome.health_ms)) > 1
    assert all(report["rounds"] for report in reports)
    assert sum(report["calls"] for report in reports) > ATTACKERS
    assert comes_true(lambda: resident_mib(server.pid) <= outcome.before_mib + KEPT_MIB), (
        f"{outcome.before_mib:.0f} MiB before, {resident_mib(server.pid):.0f} MiB afterwards"
    )
    assert "Traceback" not in server.logs()


def test_eight_greedy_callers_take_a_bounded_amount_of_memory() -> None:
    with serve("sum", "--model", "flights") as server:
        warm_up(server)
        with beside(server.address, server.pid) as outcome:
            attackers = [Attacker(server.address, kind, 4.0) for kind in HEAVY]
            try:
                for attacker in attackers:
                    attacker.report()
            finally:
                for attacker in attackers:
                    attacker.close()
        assert outcome.peak_mib - outcome.before_mib < 3 * Limits().max_bytes_in_flight / MIB
        assert outcome.wrong == []
        assert outcome.unhealthy == []


def test_an_attack_keeps_its_own_bounds(server: Server) -> None:
    attack = Attack(server.address, seconds=60.0, seed=0)
    for _ in range(450):
        attack.connect()
    assert attack.n_connections == 450
    assert len(attack._open) <= 200
    attack.disconnect()
    assert not attack.is_over
    over = Attack(server.address, seconds=0.0, seed=0)
    over.run(lambda _: pytest.fail("its time is over"))
    assert threading.active_count() < 50
