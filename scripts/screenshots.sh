#!/usr/bin/env bash
# Makes the pictures in docs/images anew: a real service, a real browser, and devices whose past
# is made up.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh

install_packages cmake cc:gcc c++:g++ make pkg-config /usr/include/openssl/ssl.h:libssl-dev \
    mosquitto_pub:mosquitto-clients chromedriver:chromium-driver pngquant \
    '/usr/share/fonts/*/inter/*:fonts-inter' '/usr/share/fonts/*/jetbrains-mono/*:fonts-jetbrains-mono'
need_cargo
cargo test --locked --test suite -- --ignored pictures::
pngquant --force --ext .png --skip-if-larger --quality 80-98 docs/images/*.png || [ $? -eq 98 ]
