#!/usr/bin/env bash
# Builds heartbeatd and runs it. Arguments go to heartbeatd:
#   ./scripts/run.sh
#   ./scripts/run.sh demo
#   ./scripts/run.sh --config my.toml
#   ./scripts/run.sh device list
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/install.sh"

install_packages cmake cc:gcc c++:g++ make pkg-config /usr/include/openssl/ssl.h:libssl-dev
need_cargo
cargo build --release --manifest-path "$here/../Cargo.toml"

# Each device is a connection, and each connection an open file.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
target=${CARGO_TARGET_DIR:-$here/../target}
exec "$target/release/heartbeatd" "$@"
