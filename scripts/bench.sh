#!/usr/bin/env bash
# Measures heartbeatd and the programs it is compared with, and writes docs/benchmarks.md.
#   ./scripts/bench.sh           everything, three turns each
#   ./scripts/bench.sh --turns 1 everything, one turn each
#   ./scripts/bench.sh --quick   an overview in five minutes, in target/benchmarks
# The first run installs the peers into target/peers.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh

case ${1-} in
'' | --turns) folder=docs ;;
--quick) folder=target/benchmarks ;;
*)
    sed -n '2,6s/^# //p' "$0" >&2
    exit 64
    ;;
esac

install_packages cmake cc:gcc c++:g++ make pkg-config /usr/include/openssl/ssl.h:libssl-dev \
    mosquitto '/usr/lib/postgresql/*/bin/initdb:postgresql'
need_cargo
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")

echo "Building" >&2
cargo build --release --locked -p heartbeatd -p side-by-side
for peer in asyncio mqtt-exporter node-red; do
    echo "Installing $peer" >&2
    "benches/peers/$peer/install.sh" "$target/peers/$peer"
done

"$target/release/side-by-side" report "$@" --folder "$folder" \
    --heartbeatd "$target/release/heartbeatd" --peers "$target/peers"
echo "Written: $folder/benchmarks.md" >&2
