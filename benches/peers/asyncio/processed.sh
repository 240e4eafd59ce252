#!/usr/bin/env bash
# Prints how many devices have this as their latest uptime_seconds:
#   UPTIME=60 processed.sh INSTALL_FOLDER WORK_FOLDER
set -euo pipefail

"$1/bin/python" - "$2/devices.db" "$UPTIME" <<'EOF'
import sqlite3
import sys

database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
query = "SELECT count(*) FROM device WHERE uptime_seconds = ?"
print(database.execute(query, (sys.argv[2],)).fetchone()[0])
EOF
