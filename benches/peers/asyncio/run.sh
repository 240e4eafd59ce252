#!/usr/bin/env bash
# Runs the peer until SIGTERM: MQTT_PORT=1883 QOS=1 run.sh INSTALL_FOLDER WORK_FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

exec "$1/bin/python" "$here/heartbeats.py" \
    --database "$2/devices.db" --port "$MQTT_PORT" --qos "$QOS"
