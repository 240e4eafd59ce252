#!/usr/bin/env bash
# Measures heartbeatd and the programs it is compared with, and writes docs/benchmarks.md.
#   ./scripts/bench.sh           everything, three turns each
#   ./scripts/bench.sh --turns 1 everything, one turn each
#   ./scripts/bench.sh --quick   an overview in five minutes, in target/benchmarks
#   ./scripts/bench.sh --api     the API under load instead, into docs/benchmarks-api.md
# The first run installs the peers into target/peers.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh

peers=(asyncio mqtt-exporter node-red)
case ${1-} in
'' | --turns) folder=docs ;;
--api) peers=() folder=docs ;;
--quick) folder=target/benchmarks ;;
*)
    sed -n '2,7s/^# //p' "$0" >&2
    exit 64
    ;;
esac

install_packages cmake cc:gcc c++:g++ make pkg-config /usr/include/openssl/ssl.h:libssl-dev \
    mosquitto '/usr/lib/postgresql/*/bin/initdb:postgresql'
need_cargo
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")

echo "Building" >&2
cargo build --release --locked -p heartbeatd -p side-by-side
for peer in "${peers[@]}"; do
    echo "Installing $peer" >&2
    "benches/peers/$peer/install.sh" "$target/peers/$peer"
done

if [ "${1-}" = --api ]; then
    "$target/release/side-by-side" surface --folder "$folder" \
        --heartbeatd "$target/release/heartbeatd"
    echo "Written: $folder/benchmarks-api.md" >&2
    exit
fi
"$target/release/side-by-side" report "$@" --folder "$folder" \
    --heartbeatd "$target/release/heartbeatd" --peers "$target/peers"
echo "Written: $folder/benchmarks.md" >&2
