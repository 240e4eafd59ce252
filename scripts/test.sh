#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, docs, tests, and
# that the benchmarks run and the pure parts take no more instructions than they may.
# Installs what the tests need; they start their own servers and stop them again.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh

install_packages cmake cc:gcc c++:g++ make pkg-config /usr/include/openssl/ssl.h:libssl-dev \
    mosquitto mosquitto_pub:mosquitto-clients '/usr/lib/postgresql/*/bin/initdb:postgresql' \
    pgbouncer systemd-analyze:systemd valgrind
need_cargo

step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked -- -D warnings
step cargo clippy --locked --no-default-features -- -D warnings
RUSTDOCFLAGS='-D warnings' step cargo doc --workspace --no-deps --locked --quiet
# Most tests wait for servers and for time to pass: 160 s instead of 365 s on two processors.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((4 * $(nproc)))} step cargo test --workspace --locked

# The counter of instructions must be of the version of its library.
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools
version=$(sed -n '/^name = "gungraun"$/{n;s/^version = "\(.*\)"$/\1/p}' Cargo.lock)
step cargo install --quiet --locked --root "$tools" --version "$version" gungraun-runner
GUNGRAUN_RUNNER=$tools/bin/gungraun-runner step cargo bench --locked --bench instructions
step cargo bench --locked --bench micro -- --test
