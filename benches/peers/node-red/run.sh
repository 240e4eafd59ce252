#!/usr/bin/env bash
# Runs it until SIGTERM:
#   MQTT_PORT=1883 HTTP_PORT=1880 QOS=1 run.sh INSTALL_FOLDER WORK_FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

cp "$here/flows.json" "$2"
# The flow and the settings take MQTT_PORT, QOS and HTTP_PORT from the environment.
export MQTT_PORT HTTP_PORT QOS
exec node "$1/node_modules/node-red/red.js" --settings "$here/settings.js" --userDir "$2"
