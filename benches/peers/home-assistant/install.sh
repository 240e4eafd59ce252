#!/usr/bin/env bash
# Installs Home Assistant Core into a virtual environment: install.sh FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../../scripts/install.sh"

install_packages python3 '/usr/lib/python3*/ensurepip:python3-venv'
# Debian's own Python, whatever else comes first in the PATH.
[ -x "$1/bin/pip" ] || /usr/bin/python3 -m venv "$1"
cmp -s "$here/requirements.txt" "$1/installed.txt" && exit
"$1/bin/python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || {
    echo "This Home Assistant needs Python 3.11 or 3.12." >&2
    exit 69
}
# --use-pep517: some of what it depends on has no wheels.
"$1/bin/pip" install --quiet --disable-pip-version-check --use-pep517 -r "$here/requirements.txt" >&2
cp "$here/requirements.txt" "$1/installed.txt"
