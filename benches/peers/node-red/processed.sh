#!/usr/bin/env bash
# Prints how many devices have this as their latest uptime_seconds:
#   HTTP_PORT=1880 UPTIME=60 processed.sh INSTALL_FOLDER WORK_FOLDER
set -euo pipefail

curl -fsS "http://127.0.0.1:$HTTP_PORT/processed?uptime=$UPTIME"
echo
