#!/usr/bin/env bash
# Prints how many devices have this as their latest uptime_seconds:
#   HTTP_PORT=9641 UPTIME=60 processed.sh INSTALL_FOLDER WORK_FOLDER
set -euo pipefail

# A line is: uptime_seconds{sensor="ID",topic="TOPIC"} VALUE TIME
curl -fsS "http://127.0.0.1:$HTTP_PORT/metrics" |
    awk -v uptime="$UPTIME" '/^uptime_seconds\{/ && $2 + 0 == uptime + 0 { n++ } END { print n + 0 }'
