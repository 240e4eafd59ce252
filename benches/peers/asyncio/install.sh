#!/usr/bin/env bash
# Installs the Python packages into a virtual environment: install.sh FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../../scripts/install.sh"

install_packages python3 '/usr/lib/python3*/ensurepip:python3-venv'
# Debian's own Python, whatever else comes first in the PATH.
[ -x "$1/bin/pip" ] || /usr/bin/python3 -m venv "$1"
cmp -s "$here/requirements.txt" "$1/installed.txt" && exit
"$1/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
cp "$here/requirements.txt" "$1/installed.txt"
