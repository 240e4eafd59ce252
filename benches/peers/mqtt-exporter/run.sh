#!/usr/bin/env bash
# Runs it until SIGTERM:
#   MQTT_PORT=1883 HTTP_PORT=9641 QOS=1 run.sh INSTALL_FOLDER WORK_FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

sed -e "s/@MQTT_PORT@/$MQTT_PORT/" -e "s/@QOS@/$QOS/" "$here/config.yaml" >"$2/config.yaml"

# It subscribes as soon as it is connected, but does not say when it has.
say_ready() {
    while kill -0 $$ 2>/dev/null; do
        sleep 0.5
        curl -fs "http://127.0.0.1:$HTTP_PORT/metrics" | grep -qx 'mqtt2prometheus_connected 1' || continue
        sleep 1
        echo ready
        return
    done
}
(say_ready &)

exec "$1/usr/bin/prometheus-mqtt-exporter" -config "$2/config.yaml" -log-level warn \
    -listen-address 127.0.0.1 -listen-port "$HTTP_PORT"
