"""`make attack`: every kind of attack beside good callers and a health probe, and the same beside a control.

    python -m tests.attacks.measure [--seconds 10] [--memory-seconds 60] [--only-memory] [KIND…]

It exits with 1 where a promise is broken. With all kinds it writes data/results/attack.json and data/RESULTS.md; with
`--only-memory` it measures anew how far memory grows, and leaves the kinds there as they are.
"""

import argparse
import json
import statistics
import sys
import threading
from pathlib import Path
from typing import Any

from pred_server import serve
from pred_server.checkout import ROOT
from pred_server.lab import words
from pred_server.lab.experiments import stamp
from pred_server.lab.report import END
from pred_server.limits import MIB, Limits
from pred_server.tutorial.background import Server
from tests.attacks.attack import LOWEST_PRIORITY, Attacker
from tests.attacks.beside import KEPT_MIB, Outcome, beside, resident_mib, warm_up
from tests.attacks.kinds import HEAVY, KINDS
from tests.waits import comes_true

RESULT, PAGE = ROOT / "data/results/attack.json", ROOT / "data/RESULTS.md"
BEGIN = "<!-- attack -->\n"
ATTACKERS, GOOD_CALLERS = 4, 2
HEALTH_MS, HEALTH_RATIO, GOOD_RATIO = 1_000.0, 2.0, 5.0
MOST_MIB = 3 * Limits().max_bytes_in_flight // MIB
IDLE_S = 5.0


def start() -> Server:
    server = serve("sum", "--model", "flights")
    warm_up(server)
    return server


def start_control() -> Server:
    return Server([sys.executable, "-m", "tests.attacks.control"], start_timeout_s=60)


def under_attack(
    server: Server, kinds: list[str], seconds: float, n_good: int
) -> tuple[Outcome, list[dict[str, float]]]:
    """Return what was seen beside one attacker for each of some kinds, and what the attackers did."""
    with beside(server.address, server.pid, n_good) as outcome:
        attackers = [Attacker(server.address, kind, seconds, seed) for seed, kind in enumerate(kinds)]
        try:
            return outcome, [attacker.report(60 + 10 * seconds) for attacker in attackers]
        finally:
            for attacker in attackers:
                attacker.close()


def idle_ms(server: Server) -> float:
    """Return the median of good calls of one row where nobody attacks."""
    with beside(server.address, server.pid, GOOD_CALLERS) as outcome:
        threading.Event().wait(IDLE_S)
    return outcome.median_ms


def measure(kind: str, seconds: float, server: Server, base_ms: float) -> dict[str, Any]:
    """Return a line of the table: one kind of attack, on the server and on a control."""
    outcome, reports = under_attack(server, [kind] * ATTACKERS, seconds, GOOD_CALLERS)
    came_back = comes_true(lambda: resident_mib(server.pid) <= outcome.before_mib + KEPT_MIB)
    after_mib = resident_mib(server.pid)
    control = start_control()
    try:
        plain, _ = under_attack(control, [kind] * ATTACKERS, seconds, 0)
    finally:
        control.close()
    allowed_ms = max(HEALTH_MS, HEALTH_RATIO * plain.slowest_health_ms)
    broken = [*outcome.wrong[:2], *outcome.unhealthy[:2]]
    if outcome.slowest_health_ms > allowed_ms:
        broken.append(f"health took {outcome.slowest_health_ms:.0f} ms, of {allowed_ms:.0f}")
    if outcome.median_ms > GOOD_RATIO * base_ms:
        broken.append(f"good calls took {outcome.median_ms:.1f} ms, and {base_ms:.1f} without an attack")
    if not came_back:
        broken.append(f"{outcome.before_mib:.0f} MiB before, {after_mib:.0f} MiB afterwards")
    return {
        "kind": kind,
        "calls_per_s": sum(report["calls"] for report in reports) / seconds,
        "mb_per_s": sum(report["bytes"] for report in reports) / seconds / 1e6,
        "connections": sum(report["connections"] for report in reports),
        "good": outcome.n_good,
        "wrong": len(outcome.wrong),
        "idle_ms": base_ms,
        "median_ms": outcome.median_ms,
        "health_ms": outcome.slowest_health_ms,
        "control_ms": plain.slowest_health_ms,
        "control_mib": plain.peak_mib - plain.before_mib,
        "before_mib": outcome.before_mib,
        "peak_mib": outcome.peak_mib,
        "after_mib": after_mib,
        "broken": broken,
    }


def memory(seconds: float) -> list[dict[str, Any]]:
    """Return how far the memory of a fresh server grows while eight greedy callers send what takes most."""
    lines = []
    for name, kinds in {"one of each": list(HEAVY), **{kind: [kind] * 8 for kind in HEAVY}}.items():
        with start() as server:
            outcome, _ = under_attack(server, kinds, seconds, 1)
        grown_mib = outcome.peak_mib - outcome.before_mib
        broken = [*outcome.wrong[:2], *outcome.unhealthy[:2]]
        if grown_mib >= MOST_MIB:
            broken.append(f"memory grew by {grown_mib:.0f} MiB, of {MOST_MIB}")
        lines.append({"callers": name, "grown_mib": grown_mib, "good": outcome.n_good, "broken": broken})
        print(f"{name:26s} grew by {grown_mib:,.0f} MiB {'; '.join(broken)}", flush=True)
    return lines


def block(result: dict[str, Any]) -> list[str]:
    """Return the result as lines of Markdown."""
    kinds, greedy, stamped = result["kinds"], result["memory"], result["stamp"]
    where = f"{stamped['cpu']}, {stamped['cores']} cores, attackers at priority {LOWEST_PRIORITY}"
    libraries = f"Python {stamped['python']}, grpcio {stamped['grpcio']}; revision {stamped['revision']}"
    if (revision := result["memory_stamp"]["revision"]) != stamped["revision"]:
        libraries += f", the greedy callers {revision}"
    header = ["attack", "calls/s", "MB/s", "good call, ms", "health, ms", "memory at most, MiB", "after"]
    header += ["control: health, ms", "memory, MiB"]
    rows = []
    for line in kinds:
        grown = (line[name] - line["before_mib"] for name in ("peak_mib", "after_mib"))
        times = (words.number(line[name]) for name in ("median_ms", "health_ms"))
        rates = (f"{line['calls_per_s']:,.0f}", words.number(line["mb_per_s"]))
        plain = (words.number(line["control_ms"]), f"{line['control_mib']:+,.0f}")
        rows.append([line["kind"].replace("_", " "), *rates, *times, *(f"{mib:+,.0f}" for mib in grown), *plain])
    idle = statistics.median(line["idle_ms"] for line in kinds)
    broken = [
        f"{line.get('kind') or line['callers']}: {fault}" for line in (*kinds, *greedy) for fault in line["broken"]
    ]
    n_good, n_wrong = (sum(line[name] for line in kinds) for name in ("good", "wrong"))
    worst = max(greedy, key=lambda line: line["grown_mib"])
    return [
        *words.table(header, rows),
        "",
        f"- {ATTACKERS} attackers, {result['seconds']:g} s for each kind. A good call alone takes {idle:.2f} ms.",
        f"- {n_good:,} good calls were right, {n_wrong:,} were not.",
        f"- Eight greedy callers, {result['memory_seconds']:g} s: memory grew by {worst['grown_mib']:,.0f} MiB at most "
        f"({worst['callers'].replace('_', ' ')}); the limit is {MOST_MIB:,}.",
        *(f"- Broken: {fault}." for fault in broken),
        "",
        f"<sub>{where}; {libraries}.</sub>",
    ]


def with_block(page: str, result: dict[str, Any]) -> str:
    """Return a page with the result between its markers. Raises ValueError where it has none."""
    head, rest = page.split(BEGIN)
    return "\n".join([f"{head}{BEGIN}{chr(10).join(block(result))}", f"{END}{rest.split(END, 1)[1]}"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Attack a server in every way, and see whether others are harmed.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"one of: {', '.join(KINDS)}")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each kind is tried")
    parser.add_argument(
        "--memory-seconds", type=float, default=60.0, help="how long eight callers send what takes most"
    )
    parser.add_argument("--only-memory", action="store_true", help="try no kinds, only eight callers who fill memory")
    arguments = parser.parse_args()
    if arguments.only_memory:
        result = json.loads(RESULT.read_text())
        result |= {"memory": memory(arguments.memory_seconds), "memory_seconds": arguments.memory_seconds}
        result["memory_stamp"] = stamp(seed=0)
        write(result, RESULT, PAGE)
        return int(any(line["broken"] for line in result["memory"]))
    lines = []
    with start() as server:
        base_ms = idle_ms(server)
        for kind in arguments.kinds or KINDS:
            lines.append(line := measure(kind, arguments.seconds, server, base_ms))
            print(
                f"{kind:26s} good {line['median_ms']:7.2f} ms, health {line['health_ms']:6.0f} ms "
                f"(control {line['control_ms']:6.0f}), memory {line['before_mib']:5.0f} {line['peak_mib']:5.0f} "
                f"{line['after_mib']:5.0f} MiB, {line['calls_per_s']:8,.0f} calls/s, {line['mb_per_s']:6.1f} MB/s "
                f"{'; '.join(line['broken'])}",
                flush=True,
            )
    greedy = memory(arguments.memory_seconds) if arguments.memory_seconds else []
    if not arguments.kinds and greedy:
        times = {"seconds": arguments.seconds, "memory_seconds": arguments.memory_seconds}
        now = stamp(seed=0)
        result = {"stamp": now, **times, "kinds": lines, "memory": greedy, "memory_stamp": now}
        write(result, RESULT, PAGE)
    return int(any(line["broken"] for line in (*lines, *greedy)))


def write(result: dict[str, Any], path: Path, page: Path) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n")
    page.write_text(with_block(page.read_text(), result))


if __name__ == "__main__":
    sys.exit(main())
