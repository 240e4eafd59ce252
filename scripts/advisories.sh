#!/usr/bin/env bash
# Looks for known vulnerabilities of the dependencies. Apart from scripts/test.sh, because it
# needs the advisory database from the network, and because a new entry there is not the
# fault of the change that is tested.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh

install_packages cc:gcc
need_cargo
install_cargo_deny
"$tools/bin/cargo-deny" --locked check advisories
