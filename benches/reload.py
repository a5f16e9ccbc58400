"""What a reload of ten thousand policies does to webhooks that come in meanwhile.

    cargo build --release --locked --bin byoa --example rate && python3 benches/reload.py [--rounds 3] [--seconds 10] [--cores 0]

The gateway has the cores it is given, its reloads included; the load comes from core 1 at a constant rate, open-loop, and its
latency counts from the time a request was due. Turns are interleaved: with no edit, and with an edit every two seconds, each of which the
gateway reads, validates, indexes and swaps while it answers. A turn counts only if its edits were taken.
"""

import argparse
import contextlib
import http.client
import json
import pathlib
import shutil
import statistics
import sys
import threading
import time

import bench

FORBID = (
    '@id("org.org{org}.limit-{n}")\n@reason("A limit of org {org}")\n@code("policy.forbidden")\nforbid (principal in Byoa::Org::"org{org}", '
    'action == Byoa::Action::"RouteMessage", resource)\nwhen {{ context has conversation && context.conversation == "C-{org}-{n}-{edit}" }};\n'
)


def write_org(folder, org, edit=0):
    text = "".join(FORBID.format(org=org, n=n, edit=edit) for n in range(4))
    target = folder / f"orgs/org{org}/limits.cedar"
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_suffix(".tmp")
    new.write_text(text)
    new.replace(target)


class Reload(bench.Bench):
    """A gateway over a policy folder of its own."""

    def __init__(self, args):
        super().__init__(args)
        self.cores = args.cores
        self.policies = self.out / "policies"
        shutil.rmtree(self.policies, ignore_errors=True)
        shutil.copytree(bench.HERE.parent / "policies/platform", self.policies / "platform")
        for org in range(args.policies // 4):
            write_org(self.policies, org)
        plain = bench.config

        def config(folder, port):
            made = plain(folder, port)
            made["policies"] |= {"dir": str(self.policies), "history": f"{folder}/accepted"}
            return made

        bench.config = config

    def reloads(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.args.port + 1, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("byoa_policy_reloads_total{result=\"accepted\"}"))

    def run(self, edits):
        with self.server("byoa") as pid:
            before, stop = self.reloads(), threading.Event()

            def edit():
                for n in range(1, 1_000):
                    if stop.wait(2):
                        return
                    write_org(self.policies, 7, f"{time.time_ns()}-{n}")

            editor = threading.Thread(target=edit, daemon=True)
            if edits:
                editor.start()
            found = self.watched(pid, lambda: self.rate(self.args.rate, self.args.seconds))
            stop.set()
            found["taken"] = self.reloads() - before
            found["rss"] = bench.rss_mib(pid)
        if found["bad"] or (edits and not found["taken"]):
            raise SystemExit(f"not a turn that counts: {json.dumps(found)}")
        return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", default="target")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rate", type=int, default=4_000)
    parser.add_argument("--policies", type=int, default=10_000)
    parser.add_argument("--cores", default="0,1")
    parser.add_argument("--port", type=int, default=18_080)
    args = parser.parse_args()
    args.stand_in = False
    pathlib.Path(args.target, "bench").mkdir(parents=True, exist_ok=True)
    turns, bed = {"no edit": [], "an edit every 2 s": []}, Reload(args)
    for round_ in range(args.rounds):
        for name, found in turns.items():
            found.append(bed.run(name != "no edit"))
            last = found[-1]
            print(f"{name} {round_}: p50 {last['p50']} p99 {last['p99']} max {last['max']} ms, {last['taken']:.0f} reloads", file=sys.stderr)
    print(f"\n{args.policies} policies, {args.rate} webhooks a second\n")
    print("| | p50 ms | p99 ms | max ms | reloads taken | core 0 | RSS MiB |\n|---|---|---|---|---|---|---|")
    for name, found in turns.items():
        middle = {key: statistics.median(f[key] for f in found) for key in ("p50", "p99", "max", "taken", "core", "rss")}
        print(f"| {name} | {middle['p50']:.2f} | {middle['p99']:.2f} | {middle['max']:.2f} | {middle['taken']:.0f} | {middle['core']:.0f} % | {middle['rss']:.0f} |")
    quiet, busy = (statistics.median(f["p99"] for f in found) for found in turns.values())
    print(f"\np99 with edits / without: {busy / quiet:.2f}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
