#!/usr/bin/env bash
# Measures the gateway against its ceiling (bare.rs) and its best chat-SDK peer (bolt/), one server core each:
#
#   benches/run.sh [--rounds 3] [--seconds 6] [--port 18080] [--stand-in]
#
# Needs two cores, wrk, Node 20 and Python 3. Takes about three minutes after the build; writes only below the target folder.
# --stand-in runs bare.rs in the gateway's place, to test the harness itself.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in wrk node npm python3 taskset; do
  command -v "$tool" >/dev/null || { echo "run.sh: $tool is missing" >&2; exit 2; }
done

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
gateway=(--bin byoa)
[[ " $* " == *" --stand-in "* ]] && gateway=()
cargo build --release --locked "${gateway[@]}" --example bare --example rate

bolt="$target/bench/bolt"
mkdir -p "$bolt"
cp benches/bolt/package.json benches/bolt/server.mjs "$bolt"
[[ -d $bolt/node_modules/@slack/bolt ]] || npm install --prefix "$bolt" --no-audit --no-fund --no-package-lock

# From here on bench.py owns every process it starts, and ends them on any exit.
exec python3 benches/bench.py --target "$target" "$@"
