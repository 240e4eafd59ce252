#!/usr/bin/env bash
# Brings the libraries of the page (src/http/page/vendor/) from their npm packages.
#   ./scripts/vendor.sh           downloads, compares the hashes, writes the files
#   ./scripts/vendor.sh --check   does the same beside them, and fails if a file differs
# A new version: change its line, run it, and read the difference.
set -euo pipefail
cd "$(dirname "$0")/../src/http/page/vendor"
. ../../../../scripts/install.sh
install_packages npm openssl

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$work/out
mkdir "$out"

unpack() {
    npm_package "$work" "$@"
    echo "$1 $2"
}

# take FILE NAME - keeps a module of the package. Its imports by name become imports by path:
# the page's policy allows no import map, which would have to stand in the document itself.
take() {
    sed -e 's#from"preact"#from"./preact.js"#g' \
        -e 's#from"preact/hooks"#from"./preact-hooks.js"#g' \
        -e 's#from"@preact/signals-core"#from"./signals-core.js"#g' \
        -e '/^\/\/# sourceMappingURL=/d' -e 's#//\# sourceMappingURL=.*$##' \
        "$work/package/$1" >"$out/$2"
}
license() { cp "$work/package/LICENSE" "$out/LICENSE-$1"; }

unpack preact 11.2.0 /HfHI/7N84e6GrWBJ3J280z3mLaRJiDcSvj/A+y/4AbLnND/1UlGHe1sR6oYuTGwId0nP7dqDU9OnLxMPZ7xBg==
take dist/preact.mjs preact.js
take hooks/dist/hooks.mjs preact-hooks.js
license preact

unpack @preact/signals-core 1.14.5 vcRv7Ityz5JVmeiVqIluLFzT/PDS/AlhHUpw3/aUWqcVUs6bDGIPXE/6RSC4evBNWYvnniozg5Syfj33al3gkg==
take dist/signals-core.mjs signals-core.js
unpack @preact/signals 2.11.4 Rb+5RPo9gWSaHtzJeauhHxiC8KP/IF2DEPkHPEOGOnuy2wnJzRqyeLRankUCYd6ADqtxS6GnWGv6Ie343d8aYw==
take dist/signals.mjs signals.js
license signals

unpack htm 3.1.1 983Vyg8NwUE7JkZ6NmOqpCZ+sh1bKv2iYTlUkzlWmA5JD2acKoxd4KVxbMmxX/85mtfdnDmTFoNKcg5DGAvxNQ==
take dist/htm.mjs htm.js
license htm

unpack uplot 1.6.32 KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==
# Only the classic script is minified (22 KB gzipped instead of 42), so it becomes a module.
take dist/uPlot.iife.min.js uplot.js
echo 'export default uPlot;' >>"$out/uplot.js"
take dist/uPlot.min.css uplot.css
license uplot

(cd "$out" && sha256sum ./* | sed 's#\./##' >"$work/SHA256SUMS")
mv "$work/SHA256SUMS" "$out/"
if [ "${1:-}" = --check ]; then
    diff -r . "$out" && echo "The libraries of the page are what their packages hold."
else
    cp "$out"/* .
fi
