#!/usr/bin/env bash
# Unpacks Debian's prometheus-mqtt-exporter: install.sh FOLDER
# It is unpacked, not installed, so that no service is started or left behind.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../../scripts/install.sh"

install_packages curl
[ -x "$1/usr/bin/prometheus-mqtt-exporter" ] && exit
mkdir -p "$1"
cd "$1"
echo "Unpacking prometheus-mqtt-exporter" >&2
if ! apt-get download -qq -o APT::Sandbox::User=root prometheus-mqtt-exporter >&2; then
    # The lists of packages are missing or too old.
    root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    "${root[@]}" apt-get update -qq >&2
    apt-get download -qq -o APT::Sandbox::User=root prometheus-mqtt-exporter >&2
fi
dpkg-deb -x prometheus-mqtt-exporter_*.deb .
rm prometheus-mqtt-exporter_*.deb
