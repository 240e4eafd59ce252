#!/usr/bin/env bash
# Installs Node-RED with npm, as locked in package-lock.json: install.sh FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../../scripts/install.sh"

install_packages node:nodejs npm curl
cmp -s "$here/package-lock.json" "$1/installed.json" && exit
mkdir -p "$1"
cp "$here/package.json" "$here/package-lock.json" "$1"
npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --loglevel error >&2
cp "$here/package-lock.json" "$1/installed.json"
