#!/usr/bin/env bash
# Makes the pictures in docs/images anew, which docs/pictures.md shows: real services, a real browser,
# and devices whose past is made up.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh

install_packages cmake cc:gcc c++:g++ make pkg-config /usr/include/openssl/ssl.h:libssl-dev \
    mosquitto mosquitto_pub:mosquitto-clients '/usr/lib/postgresql/*/bin/initdb:postgresql' \
    chromedriver:chromium-driver pngquant \
    '/usr/share/fonts/*/inter/*:fonts-inter' '/usr/share/fonts/*/jetbrains-mono/*:fonts-jetbrains-mono'
need_cargo
rm -f docs/images/*.png
cargo test --locked --test suite -- --test-threads 1 --ignored pictures::
# The page has few colours: 96 of them show no difference, in a fourth of the bytes.
pngquant --force --ext .png --skip-if-larger --speed 1 --nofs 96 docs/images/*.png || [ $? -eq 98 ]
