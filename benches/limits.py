"""What attacks from one place cost: peak memory and CPU seconds of the gateway, and what others feel meanwhile.

    cargo build --release --locked --bin byoa && python3 benches/limits.py [--binary target/release/byoa] [CASE…]

Each case has a gateway process of its own on loopback, and ends after at most `--seconds` (30). Peak memory is VmHWM of the
process over that of the same process when idle. Cases: replies, policy, json, form, half, unread, idle, nofile. About four minutes
in all. What a gateway says on its error output is left out.
"""

import argparse
import contextlib
import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

MIB = 1024 * 1024
OPERATOR = "opr_5c1f0b9e7a3d4826"
AGENT = "agt_acme_3kd9slw02mfj47"
BOT = "7000000002:AAbench-4f1d0c9e8b7a6d5c4b3a29"
ROOT = pathlib.Path(__file__).resolve().parent.parent

DOCUMENT = {
    "orgs": [{"id": "acme"}],
    "agents": [{"id": "acme-agent", "org": "acme", "endpoint": "http://127.0.0.1:9/events", "format": "native", "token": {"value": AGENT},
                "signing_secret": {"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}],
    "profiles": [
        {"id": "sl", "provider": "slack", "owner": "acme", "app_id": "A00ACMEOWN1", "ingress_id": "slack-acme-2m8d4s6x",
         "signing_secret": {"value": "8f742231b10e8888abcd99aaabbb85a5"}},
        {"id": "tg", "provider": "telegram", "owner": "acme", "app_id": "A00ACMEOWN1", "ingress_id": "telegram-acme-2m8d4s6x",
         "signing_secret": {"value": "acme_tg-9vQx7LmN2p"}},
        {"id": "wa", "provider": "whatsapp", "owner": "acme", "app_id": "A00ACMEOWN1", "ingress_id": "whatsapp-acme-2m8d4s6x",
         "signing_secret": {"value": "d3b07384d113edec49eaa6238ad5ff00"}, "verify_token": {"value": "vt_acme-3Qe7"}},
    ],
    "installations": [
        {"id": "sl", "profile": "sl", "org": "acme", "account": {"team_id": "T00ACMEOWN1"}, "credential": {"value": "xoxb-bench"}},
        {"id": "tg", "profile": "tg", "org": "acme", "account": {"bot_id": "7000000002"}, "credential": {"value": BOT}},
    ],
    "bindings": [{"id": "sl", "org": "acme", "installation": "sl", "agent": "acme-agent"},
                 {"id": "tg", "org": "acme", "installation": "tg", "agent": "acme-agent"}],
}


class Files(http.server.BaseHTTPRequestHandler):
    """A provider whose files are large."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", str(40 * MIB))
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(40):
                self.wfile.write(b"\7" * MIB)

    def log_message(self, *_):
        pass


class Gateway:
    def __init__(self, binary, provider, nofile=None, **limits):
        self.folder = tempfile.TemporaryDirectory()
        at = pathlib.Path(self.folder.name)
        shutil.copytree(ROOT / "policies", at / "rules")
        self.rules = at / "rules"
        on = {"slack": "on", "telegram": "on", "whatsapp": "on"}
        config = {
            "listen": {"public": "127.0.0.1:0", "operator": "127.0.0.1:0"}, "store": {"url": f"sqlite:{at}/byoa.db"},
            "policies": {"dir": str(self.rules), "schema": str(ROOT / "schemas/gateway.cedarschema"), "history": f"{at}/policies"},
            "keys": {"file": f"{at}/master.keys"}, "operators": {"token_file": f"{at}/operator.token"},
            "providers": {"telegram": {"api_base": provider}}, "ingress": {"aliases": {"/hooks/whatsapp": "wa"}},
            "rollout": {"initial": on}, "egress": {"allow_private_agents": True}, "log": {"level": "error"}, "limits": limits,
        }
        (at / "byoa.yaml").write_text(json.dumps(config))
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, nofile)) if nofile else None
        command = [binary, "serve", "--config", f"{at}/byoa.yaml"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=limit, cwd=at,
                                        env=os.environ | {"BYOA_OPERATOR_TOKEN": OPERATOR})
        self.at = dict(word.split("=") for word in self.process.stdout.readline().split()[1:])
        self.public, self.operator = ((h, int(p)) for h, p in (self.at[n].split(":") for n in ("public", "operator")))
        connection = http.client.HTTPConnection(*self.operator, timeout=60)
        connection.request("POST", "/v1/apply", json.dumps(DOCUMENT), {"authorization": f"Bearer {OPERATOR}"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(answer.read().decode())
        self.idle, self.cpu_before = self.peak(), self.cpu()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()

    def peak(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def cpu(self):
        words = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def row(self, name, more):
        print(f"| {name} | {self.peak() - self.idle:.0f} | {self.cpu() - self.cpu_before:.2f} | {more} |", flush=True)


def connect(to, address="127.0.0.1"):
    return socket.create_connection(to, timeout=30, source_address=(address, 0))


def exchange(to, head, body, address="127.0.0.1", timeout=60):
    """The status of the answer; none where the connection ends without one."""
    with connect(to, address) as stream:
        stream.settimeout(timeout)
        with contextlib.suppress(OSError):
            stream.sendall(head)
            for at in range(0, len(body), MIB):
                stream.sendall(body[at:at + MIB])
        try:
            return stream.recv(65536).split(b" ", 2)[1].decode()
        except (OSError, IndexError):
            return "closed"


def post(path, media_type, length, *more):
    lines = [f"POST {path} HTTP/1.1", "host: a", f"content-type: {media_type}", f"content-length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


def replies(args):
    """An interaction whose payload holds many reply addresses, for an agent that gets the provider's own format."""
    with Gateway(args.binary, args.provider) as gateway:
        many = (240_000 - 400) // len('{"response_url":""},')
        payload = {"type": "block_actions", "api_app_id": "A00ACMEOWN1", "team": {"id": "T00ACMEOWN1", "domain": "a"}, "user": {"id": "U00A"},
                   "channel": {"id": "C00HELPDESK"}, "trigger_id": "1.2.a", "actions": [{"response_url": ""}] * many}
        body = urllib.parse.urlencode({"payload": json.dumps(payload, separators=(",", ":"))}).encode()
        at = str(int(time.time()))
        proof = hmac.new(b"8f742231b10e8888abcd99aaabbb85a5", f"v0:{at}:".encode() + body, hashlib.sha256).hexdigest()
        head = post("/webhooks/slack/slack-acme-2m8d4s6x", "application/x-www-form-urlencoded", len(body),
                    f"x-slack-request-timestamp: {at}", f"x-slack-signature: v0={proof}")
        status = exchange(gateway.public, head, body)
        # Until nothing is computed any more.
        began, last, quiet = time.monotonic(), -1.0, 0
        while quiet < 4 and time.monotonic() - began < args.seconds:
            time.sleep(0.5)
            quiet = quiet + 1 if gateway.cpu() - last < 0.05 else 0
            last = gateway.cpu()
        gateway.row(f"{many:,} reply addresses in a form of {len(body) // 1000} KB", f"answered {status}")


def policy(args):
    """An org's policy that overflows the stack of a parser."""
    with Gateway(args.binary, args.provider) as gateway:
        org = gateway.rules / "orgs/acme"
        org.mkdir(parents=True, exist_ok=True)
        deep = "[" * 2_000 + "1" + "]" * 2_000
        (org / "a.cedar").write_text(f"forbid (principal, action, resource) when {{ {deep} == [1] }};")
        with contextlib.suppress(subprocess.TimeoutExpired):
            gateway.process.wait(5)
        died = gateway.process.poll()
        if died is not None:
            print(f"| 2,000 nested sets in an org's policy | – | – | the process ended with {died} |", flush=True)
            return
        gateway.row("2,000 nested sets in an org's policy", f"webhooks {exchange(gateway.public, post('/none', 'a/b', 0), b'')}, as before")


def large(args, name, media_type, body):
    with Gateway(args.binary, args.provider) as gateway:
        head = post("/sdk/slack/api/chat.postMessage", media_type, len(body), f"authorization: Bearer {AGENT}", "byoa-installation: sl")
        gateway.row(name, f"answered {exchange(gateway.public, head, body)}")


def half(args):
    with Gateway(args.binary, args.provider) as gateway:
        size, held = 3 * MIB, []
        head = post("/hooks/whatsapp", "application/json", size, f"x-hub-signature-256: sha256={'0' * 64}")

        def send():
            with contextlib.suppress(OSError):
                stream = connect(gateway.public)
                held.append(stream)
                stream.sendall(head + b" " * (size - 1))

        threads = [threading.Thread(target=send, daemon=True) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        status = exchange(gateway.public, post("/hooks/whatsapp", "application/json", 2, f"x-hub-signature-256: sha256={'0' * 64}"), b"{}")
        other = exchange(gateway.public, post("/webhooks/telegram/telegram-acme-2m8d4s6x", "application/json", 2), b"{}")
        gateway.row("200 half-sent bodies on an alias path", f"the same path {status}, another address {other}")


def unread(args):
    with Gateway(args.binary, args.provider) as gateway:
        before, held = gateway.descriptors(), []
        for _ in range(64):
            stream = connect(gateway.public)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            path = f"/sdk/telegram/file/bot{AGENT}/documents/file_1.bin"
            stream.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\nbyoa-installation: tg\r\n\r\n".encode())
            held.append(stream)
        began, seconds = time.monotonic(), f"still there after {args.seconds} s"
        time.sleep(2)
        while time.monotonic() - began < args.seconds:
            if gateway.descriptors() <= before + 16:
                seconds = f"gone after {time.monotonic() - began:.0f} s"
                break
            time.sleep(0.25)
        gateway.row("64 calls whose answers nobody reads", f"their connections: {seconds}")


def latencies(to, address, path, times=40):
    took, closed = [], 0
    for _ in range(times):
        began = time.monotonic()
        status = exchange(to, f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode(), b"", address, timeout=15)
        took.append((time.monotonic() - began) * 1000)
        closed += status in ("closed", "503")
    took.sort()
    return f"p50 {took[len(took) // 2]:.1f} ms, max {took[-1]:.0f} ms, {closed} of {times} not served"


def idle(args):
    with Gateway(args.binary, args.provider) as gateway:
        held, stop = [], threading.Event()

        # Whoever is let go comes again, for as long as it is measured.
        def keep(many):
            mine = []
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    stream = socket.socket()
                    stream.setblocking(False)
                    stream.connect_ex(gateway.public)
                    mine.append(stream)
                if len(mine) > many:
                    mine.pop(0).close()
                    time.sleep(0.002)
            held.extend(mine)

        thread = threading.Thread(target=keep, args=(4_400,), daemon=True)
        thread.start()
        time.sleep(5)
        felt = latencies(gateway.public, "127.0.0.2", "/none")
        stop.set()
        thread.join()
        gateway.row("4,400 idle connections from one address, anew as they end", f"another address: {felt}")


def nofile(args):
    with Gateway(args.binary, args.provider, nofile=(1024, 8192)) as gateway:
        held = []
        for n in range(1_500):
            with contextlib.suppress(OSError):
                held.append(connect(gateway.public, f"127.0.1.{n % 200 + 1}"))
        felt = latencies(gateway.operator, "127.0.0.1", "/healthz", 20)
        gateway.row("1,500 connections, soft `nofile` 1,024", f"`/healthz` of the operator listener: {felt}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default=str(ROOT / "target/release/byoa"))
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    args.binary = os.path.abspath(args.binary)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    files.daemon_threads = True
    threading.Thread(target=files.serve_forever, daemon=True).start()
    args.provider = f"http://127.0.0.1:{files.server_address[1]}"
    cases = {
        "replies": lambda: replies(args),
        "policy": lambda: policy(args),
        "json": lambda: large(args, "a JSON array of 48 MiB", "application/json", b'{"blocks":[1' + b",1" * (24 * MIB - 8) + b"]}"),
        "form": lambda: large(args, "a form `a&a&…` of 50 MiB", "application/x-www-form-urlencoded", b"a&" * (25 * MIB)),
        "half": lambda: half(args),
        "unread": lambda: unread(args),
        "idle": lambda: idle(args),
        "nofile": lambda: nofile(args),
    }
    print("| attack | peak over idle, MiB | CPU s | what others feel |\n|---|---|---|---|", flush=True)
    for name in args.cases or cases:
        cases[name]()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
