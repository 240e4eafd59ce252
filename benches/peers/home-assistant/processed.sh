#!/usr/bin/env bash
# Prints how many devices have this as their latest uptime_seconds:
#   MQTT_PORT=1883 UPTIME=60 processed.sh INSTALL_FOLDER WORK_FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

"$1/bin/python" "$here/ask.py" "$MQTT_PORT" "$UPTIME" 60
