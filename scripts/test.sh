#!/usr/bin/env bash
# Checks everything that must hold before a change lands: spelling, format, lints,
# dependencies, docs, tests, that the benchmarks run, and the instructions of the pure parts.
# Installs what the tests need. They start their own servers and stop them again.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh

install_packages cmake cc:gcc c++:g++ make pkg-config /usr/include/openssl/ssl.h:libssl-dev \
    curl mosquitto mosquitto_pub:mosquitto-clients \
    /usr/lib/python3/dist-packages/paho/mqtt/client.py:python3-paho-mqtt \
    '/usr/lib/postgresql/*/bin/initdb:postgresql' pgbouncer promtool:prometheus chromedriver:chromium-driver npm openssl \
    systemd-analyze:systemd '/usr/lib/*/faketime/libfaketimeMT.so.1:libfaketime' valgrind
need_cargo

step() { printf '\n== %s\n' "$*"; "$@"; }

step install_tool typos-cli 1.52.0
step "$tools/bin/typos"
(cd src/http/page/vendor && step sha256sum --check --strict --quiet SHA256SUMS)
step install_axe
step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked -- -D warnings
step install_cargo_deny
step "$tools/bin/cargo-deny" --locked --log-level error check licenses sources bans
RUSTDOCFLAGS='-D warnings' step cargo doc --workspace --no-deps --locked --quiet
# Most tests wait for servers and for time to pass. More threads than processors take 160 s
# instead of 365 s on two processors.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((4 * $(nproc)))} step cargo test --workspace --locked

# Requests of all kinds to the real binary, made from its OpenAPI document.
step scripts/api.sh

# The counter of instructions must have the version of its library.
version=$(sed -n '/^name = "gungraun"$/{n;s/^version = "\(.*\)"$/\1/p}' Cargo.lock)
step install_tool gungraun-runner "$version"
GUNGRAUN_RUNNER=$tools/bin/gungraun-runner step cargo bench --locked --bench instructions
step cargo bench --locked --bench micro -- --test
