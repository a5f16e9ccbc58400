"""How long a run of the failure-path matrix takes, and what it does to webhooks that come in meanwhile.

    cargo build --release --locked --bin byoa --example rate && python3 benches/matrix.py --target "$PWD/target" [--rounds 3] [--seconds 20] [--cores 0]

The gateway has the cores it is given, the matrix that it plays included; the load comes from core 1 at a constant rate, open-loop,
and its latency counts from the time a request was due. Turns are interleaved: with no run, and with one run after the other for
as long as the load lasts. A turn counts only if every webhook was answered 200 and every run was green.
"""

import argparse
import contextlib
import http.client
import json
import pathlib
import statistics
import sys
import threading
import time

import bench


class Matrix(bench.Bench):
    def __init__(self, args):
        super().__init__(args)
        self.cores = args.cores

    def play(self):
        """One run for one provider; how long it took, and how many cases it had."""
        token = next(line for line in (self.folder / "operator.token").read_text().splitlines() if line and not line.startswith("#")).split()[0]
        connection, began = http.client.HTTPConnection("127.0.0.1", self.args.port + 1, timeout=600), time.monotonic()
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        connection.request("POST", "/v1/matrix", json.dumps({"provider": self.args.provider}), headers)
        run = json.load(connection.getresponse())
        if not run.get("green"):
            raise SystemExit(f"not a turn that counts: {json.dumps(run)[:500]}")
        return time.monotonic() - began, run["played"]

    def run(self, plays):
        runs, stop = [], threading.Event()

        def go_on():
            while not stop.is_set():
                runs.append(self.play())

        with self.server("byoa") as pid:
            alone = self.play()
            player = threading.Thread(target=go_on)
            if plays:
                player.start()
            found = self.watched(pid, lambda: self.rate(self.args.rate, self.args.seconds))
            stop.set()
            if plays:
                player.join()
            found |= {"alone": alone[0], "cases": alone[1], "beside": statistics.mean(s for s, _ in runs) if runs else 0, "rss": bench.rss_mib(pid)}
        if found["bad"] or (plays and not runs):
            raise SystemExit(f"not a turn that counts: {json.dumps(found)}")
        return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", default="target")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--provider", default="slack")
    parser.add_argument("--cores", default="0,1")
    parser.add_argument("--port", type=int, default=18_080)
    args = parser.parse_args()
    args.stand_in = False
    pathlib.Path(args.target, "bench").mkdir(parents=True, exist_ok=True)
    turns, bed = {"no run": [], "one run after the other": []}, Matrix(args)
    for round_ in range(args.rounds):
        for name, found in turns.items():
            found.append(bed.run(name != "no run"))
            last = found[-1]
            print(f"{name} {round_}: p50 {last['p50']} p99 {last['p99']} max {last['max']} ms; alone {last['alone']:.1f} s", file=sys.stderr)
    print(f"\n{args.rate} webhooks a second; {turns['no run'][0]['cases']} cases for {args.provider}\n")
    print("| | p50 ms | p99 ms | max ms | a run, nothing beside it | a run beside the load | RSS MiB |\n|---|---|---|---|---|---|---|")
    for name, found in turns.items():
        middle = {key: statistics.median(f[key] for f in found) for key in ("p50", "p99", "max", "alone", "beside", "rss")}
        beside = f"{middle['beside']:.1f} s" if middle["beside"] else "–"
        print(f"| {name} | {middle['p50']:.2f} | {middle['p99']:.2f} | {middle['max']:.2f} | {middle['alone']:.1f} s | {beside} | {middle['rss']:.0f} |")
    quiet, busy = (statistics.median(f["p99"] for f in found) for found in turns.values())
    print(f"\np99 beside runs / without: {busy / quiet:.2f}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
