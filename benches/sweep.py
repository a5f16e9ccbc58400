"""What a retention sweep does to the answers that providers wait for.

    cargo build --release --locked --bin byoa && python3 benches/sweep.py [--events 40000] [--rate 200] [--byoa FILE]

Events with a text of 2 KiB are stored, and made 400 days old in the database file while no gateway runs. The next start sweeps them: bodies
and rows, with the default retention. Signed events are posted at a constant rate during that sweep and for the same number of events
after it. A latency counts from the time an event was due to be posted to its answer. Takes about two minutes; standard library only.
"""

import argparse
import asyncio
import contextlib
import pathlib
import shutil
import sqlite3
import time

import bench
import neighbours

TEXT = "word " * 410
AGED_MS = 400 * 86_400_000
POSTERS = 32
ENDED = "was removed"  # the gateway's log line at the end of a sweep
ATTEMPTS_SECONDS = 300


async def post_all(row, port, count):
    """Stores so many events as fast as they are taken."""
    numbers = iter(range(count))

    async def one(poster):
        for n in numbers:
            await poster.post(row, n % 1_000, TEXT)

    await asyncio.gather(*(one(neighbours.Poster(port)) for _ in range(POSTERS)))


def age(folder):
    """Makes everything in the store old and settled."""
    with contextlib.closing(sqlite3.connect(folder / "byoa.db")) as db:
        db.execute("UPDATE events SET received_ms = received_ms - ?", (AGED_MS,))
        db.execute("UPDATE deliveries SET created_ms = created_ms - ?1, settled_ms = created_ms - ?1, state = 'delivered'", (AGED_MS,))
        db.execute("UPDATE decisions SET at_ms = at_ms - ?", (AGED_MS,))
        db.execute("UPDATE sessions SET created_ms = created_ms - ?1, last_ms = last_ms - ?1, status = 'expired', ended_ms = last_ms - ?1", (AGED_MS,))
        db.execute("UPDATE dedupe SET expires_ms = expires_ms - ?", (AGED_MS,))
        db.commit()
        return db.execute("SELECT COUNT(*) FROM events").fetchone()[0]


async def paced(row, port, rate, until):
    """Posts at a constant rate until `until(posted)`; the latencies in milliseconds."""
    posters, latencies, tasks = [neighbours.Poster(port) for _ in range(POSTERS)], [], []
    locks = [asyncio.Lock() for _ in posters]

    async def one(n, due):
        async with locks[n % POSTERS]:
            await posters[n % POSTERS].post(row, n % 10, "hello")
        latencies.append(1000 * (time.monotonic() - due))

    began, n = time.monotonic(), 0
    while not until(n):
        due = began + n / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(one(n, due)))
        n += 1
    await asyncio.gather(*tasks)
    return sorted(latencies)


async def measure(args):
    row = bench.installations(1)[0]
    out = pathlib.Path(args.target, "bench").resolve()
    declared = neighbours.resources([row], ["http://127.0.0.1:9/events"])
    settings = {"delivery": {"concurrency": 0}, "quotas": {"open_deliveries": 0}}
    async with neighbours.gateway(args.byoa, out, args.port, declared, settings) as gateway:
        await post_all(row, args.port, args.events)
        gateway.stop()
        stored = age(gateway.folder)
        await gateway.start()
        before = gateway.log.read_text().count(ENDED)
        began = time.monotonic()
        during = await paced(row, args.port, args.rate, lambda _: gateway.log.read_text().count(ENDED) > before or time.monotonic() - began > ATTEMPTS_SECONDS)
        took = time.monotonic() - began
        if gateway.log.read_text().count(ENDED) == before:
            raise SystemExit(f"the sweep did not end within {ATTEMPTS_SECONDS} s")
        after = await paced(row, args.port, args.rate, lambda n: n >= len(during))
        gateway.stop()
        with contextlib.closing(sqlite3.connect(gateway.folder / "byoa.db")) as db:
            left = db.execute("SELECT COUNT(*) FROM events").fetchone()[0]
    assert left == len(during) + len(after), f"{left} events are left, {len(during) + len(after)} were posted"
    return stored, took, during, after


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="target")
    parser.add_argument("--byoa")
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--port", type=int, default=18_080)
    args = parser.parse_args()
    args.byoa = pathlib.Path(args.byoa or f"{args.target}/release/byoa").resolve()
    stored, took, during, after = asyncio.run(measure(args))
    print(f"{stored} events swept in {took:.1f} s\n\n| acks | events | p50 ms | p99 ms | max ms | p99, times that without |\n|---|---|---|---|---|---|")
    at = lambda latencies, share: latencies[min(len(latencies) - 1, int(share * len(latencies)))]
    for name, latencies in (("during the sweep", during), ("after it", after)):
        ratio = at(latencies, 0.99) / at(after, 0.99)
        print(f"| {name} | {len(latencies)} | {at(latencies, 0.5):.2f} | {at(latencies, 0.99):.2f} | {latencies[-1]:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
