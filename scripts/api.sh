#!/usr/bin/env bash
# Holds the API of the real binary against its own OpenAPI document: schemathesis makes requests
# of all kinds from the document, valid ones and others, and looks at the answers. Installs
# schemathesis into the folder of the tools. Arguments go to it, such as --seed or --max-examples.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh

install_packages '/usr/lib/python3*/ensurepip/__init__.py:python3-venv' curl
need_cargo

version=4.32.5
python=$tools/schemathesis-$version
[ -x "$python/bin/schemathesis" ] || {
    python3 -m venv "$python"
    "$python/bin/pip" install --quiet "schemathesis==$version"
}

cargo build --locked --quiet
binary=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug/heartbeatd
folder=$(mktemp -d)
# Looked into before the service may have begun.
touch "$folder/log"
export HEARTBEATD_HTTP__LISTEN=127.0.0.1:0 HEARTBEATD_MQTT__EMBEDDED__LISTEN=127.0.0.1:0
export HEARTBEATD_HTTP__TOKEN=a-token-for-the-tests HEARTBEATD_HTTP__PUBLIC=true
(cd "$folder" && exec "$binary" run 2>>log) &
service=$!
trap 'kill $service; rm -rf "$folder"' EXIT
for _ in {1..100}; do
    url=$(sed -n 's/.* metrics on \(http:[^ ]*\)\/metrics.*/\1/p' "$folder/log")
    [ -z "$url" ] || break
    sleep 0.1
done

# Something to read.
authorization="Authorization: Bearer $HEARTBEATD_HTTP__TOKEN"
for id in pump-1 pump-2 valve; do
    curl --silent --fail --output /dev/null -X PUT -H "$authorization" \
        -H 'Content-Type: application/json' -d '{}' "$url/api/v1/devices/$id"
done

export SCHEMATHESIS_HOOKS=schemathesis_hooks PYTHONPATH=$PWD/scripts PYTHONDONTWRITEBYTECODE=1
config=$folder/schemathesis.toml
sed -e "s/@now@/$(date -u +%FT%TZ)/" -e "s/@day-before@/$(date -u -d '-1 day' +%FT%TZ)/" \
    scripts/schemathesis.toml >"$config"
cd "$folder"
# A stream never ends. The tests of the suite have it. `--phases stateful` follows answers from one
# request to the next; there the hooks do not apply, so it may send an id that is not accepted.
"$python/bin/schemathesis" --config-file "$config" run "$url/api/v1/openapi.json" \
    --header "$authorization" --exclude-path /events/stream --phases coverage,fuzzing --no-color "$@"
