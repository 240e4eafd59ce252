#!/usr/bin/env bash
# Makes what compose.yaml needs and no repository holds: random passwords in secrets/, and .env. What is
# there already stays as it is. Arguments are devices: each that is new gets a user of its name, and its
# password is printed, this once.
#
#   ./secrets.sh pump-17 pump-18
#
# Restart the broker afterwards: both read their users when they start.
set -euo pipefail
umask 077
cd "$(dirname "$0")"

usage() { sed -n '2,/^set /{s/^# \{0,1\}//p}' "${0##*/}"; }

case ${1-} in -h | --help) usage; exit ;; esac
command -v openssl >/dev/null || { echo "Please install openssl" >&2; exit 69; }

random() { openssl rand -hex 24; }

# keep FILE TEXT - writes a file that is not there yet.
keep() { [ -e "secrets/$1" ] || printf '%s\n' "$2" >"secrets/$1"; }

# Turns the passwords of a file of NAME:PASSWORD lines into hashes, as mosquitto wants them.
hash_for_mosquitto() {
    local folder file
    folder=$(cd "$(dirname "$1")" && pwd)
    file=$(basename "$1")
    if command -v mosquitto_passwd >/dev/null; then
        mosquitto_passwd -U "$folder/$file" >/dev/null
    else
        docker run --rm --user "$(id -u):$(id -g)" --volume "$folder:/folder" eclipse-mosquitto:2.0 \
            mosquitto_passwd -U "/folder/$file" >/dev/null
    fi
}

# add_user NAME PASSWORD - adds a user to the files of both brokers. No password is an argument of a
# program, where others could see it.
add_user() {
    local name=$1 password=$2 salt hash new=secrets/new-user
    salt=$(openssl rand -hex 16)
    hash=$(printf '%s%s' "$password" "$salt" | openssl dgst -sha256 -r | cut -d ' ' -f 1)
    printf '%s:%s\n' "$name" "$password" >"$new"
    hash_for_mosquitto "$new"
    cat "$new" >>secrets/mosquitto-passwords
    rm "$new"
    printf '%s,%s,%s,false\n' "$name" "$hash" "$salt" >>secrets/emqx-users.csv
}

has_user() { cut -d : -f 1 secrets/mosquitto-passwords | grep -qxF -- "$1"; }

for device in "$@"; do
    case $device in
    '' | -* | *[:,\"+#/[:space:]]* | heartbeatd)
        echo "$device cannot be the name of a device here: no : , \" + # / and no blank, no - at the beginning, and not heartbeatd" >&2
        exit 64
        ;;
    esac
done

mkdir -p secrets
keep database-password "$(random)"
keep database-url "postgres://heartbeatd:$(cat secrets/database-password)@postgresql/heartbeatd"
keep http-token "$(random)"
keep mqtt-password "$(random)"
[ -e secrets/mosquitto-passwords ] || : >secrets/mosquitto-passwords
keep emqx-users.csv user_id,password_hash,salt,is_superuser
has_user heartbeatd || add_user heartbeatd "$(cat secrets/mqtt-password)"

for device in "$@"; do
    has_user "$device" && continue
    password=$(random)
    add_user "$device" "$password"
    echo "$device $password"
done

# EMQX runs as a user of its image. The folder keeps others out, and this file has only salted hashes of
# random passwords.
chmod 644 secrets/emqx-users.csv

# heartbeatd and mosquitto run as the owner of the secrets, who is not root.
owner=$(id -u):$(id -g)
if [ "$(id -u)" -eq 0 ]; then
    owner=10001:10001
    chown -R "$owner" secrets
fi
[ -e .env ] || printf 'OWNER=%s\nCOOKIE=%s\n' "$owner" "$(random)" >.env
