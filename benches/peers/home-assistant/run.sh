#!/usr/bin/env bash
# Runs it until SIGTERM, with a sensor for each of device-0000000, device-0000001, ...:
#   DEVICES=10000 MQTT_PORT=1883 HTTP_PORT=8123 QOS=1 run.sh INSTALL_FOLDER WORK_FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

mkdir -p "$2/.storage"
fill_in() { sed -e "s/@MQTT_PORT@/$MQTT_PORT/" -e "s/@HTTP_PORT@/$HTTP_PORT/" "$here/$1"; }
fill_in configuration.yaml >"$2/configuration.yaml"
# The files that its page for adding an integration would have written.
fill_in core.config_entries >"$2/.storage/core.config_entries"

awk -v devices="$DEVICES" -v qos="$QOS" 'BEGIN {
    for (i = 0; i < devices; i++) {
        id = sprintf("device-%07d", i)
        print "- name: " id
        print "  state_topic: devices/" id "/heartbeat"
        print "  value_template: \"{{ value_json.uptime_seconds }}\""
        print "  expire_after: 180"
        print "  qos: " qos
    }
}' >"$2/sensors.yaml"

# It is ready when it answers on MQTT, which it does once everything is set up.
say_ready() {
    while kill -0 $$ 2>/dev/null; do
        sleep 1
        "$1/bin/python" "$here/ask.py" "$MQTT_PORT" none 5 >/dev/null 2>&1 || continue
        echo ready
        return
    done
}
(say_ready "$1" &)

exec "$1/bin/hass" --config "$2" --skip-pip >&2
