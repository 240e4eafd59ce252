#!/usr/bin/env bash
# Measures what several instances cost: one, a pair and a group of three, each on a PostgreSQL and
# a mosquitto of its own, with 300,000 devices that send 10,000 heartbeats a second. Of the group
# one member is killed. Takes seven minutes and stops by itself. docs/benchmarks-instances.md has
# the results.
#
# instances.sh [--against BINARY] [--pair] [--devices N] [--period SECONDS] [--qos 0|1] [--for SECONDS]
#
# --against   also one instance of another release build, before each
# --pair      a pair alone; docs/scaling.md has the results
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh

install_packages curl mosquitto '/usr/lib/postgresql/*/bin/initdb:postgresql'
need_cargo

against='' only='' devices=300000 qos=0
period=30       # seconds between two heartbeats of a device
measured=45     # seconds
while [ $# -gt 0 ]; do
    case $1 in
        --pair) only=pair; shift; continue ;;
        --against | --devices | --period | --qos | --for) ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    [ $# -gt 1 ] || { echo "$1 needs a value" >&2; exit 2; }
    case $1 in
        --against) against=$(realpath "$2") ;;
        --devices) devices=$2 ;;
        --period) period=$2 ;;
        --qos) qos=$2 ;;
        --for) measured=$2 ;;
    esac
    shift 2
done
cargo build --release --locked
binary=$(realpath "${CARGO_TARGET_DIR:-target}/release/heartbeatd")

warmup=$((period + 5)) # seconds, in which each device is heard once
after_kill=60   # seconds

postgres=$(dirname "$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | tail -n 1)")
ticks=$(getconf CLK_TCK)

# Runs a program of PostgreSQL, which refuses to run as root.
as_postgres() {
    if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

free_port() {
    local port
    while port=$((RANDOM % 20000 + 20000)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

query() {
    "$postgres/psql" -h 127.0.0.1 -p "$database_port" -U postgres -XqAt -d "${2-heartbeats}" -c "$1"
}

# The processor time of processes, in seconds.
processor() {
    local pid sum=0
    for pid in "$@"; do
        sum=$(awk -v ticks="$ticks" -v sum="$sum" '{ print sum + ($14 + $15) / ticks }' \
            "/proc/$pid/stat" 2>/dev/null || echo "$sum")
    done
    echo "$sum"
}

# The most memory that a process has had, in MB.
peak() {
    awk '/^VmHWM/ { printf "%.0f", $2 / 1024 }' "/proc/$1/status"
}

metric() {
    curl -s "http://127.0.0.1:$1/metrics" | awk -v name="$2" '$1 == name { print $2; exit }'
}

# Seconds, PostgreSQL's processor time, its log in bytes, the broker's processor time, and of each
# instance its processor time and heartbeats.
reading() {
    local number parts
    parts="$(date +%s.%N) $(processor $(pgrep -P "$(head -1 "$folder/data/postmaster.pid")"))"
    parts+=" $(query "SELECT pg_current_wal_insert_lsn() - '0/0'")"
    parts+=" $(processor "$broker")"
    for number in "${!pids[@]}"; do
        parts+=" $(processor "${pids[$number]}")"
        parts+=" $(metric "${ports[$number]}" heartbeatd_heartbeats_total)"
    done
    echo "$parts"
}

# report LABEL READING READING
report() {
    printf '%s|%s|%s\n' "$@" | awk -F'|' '{
        n = split($2, before, " "); split($3, after, " ")
        for (i = 5; i <= n; i += 2) {
            cpu = after[i] - before[i]; heard = after[i + 1] - before[i + 1]
            all += heard
            each = each sprintf("%s%.2f", i > 5 ? ", " : "", cpu / heard * 1e6)
        }
        # Each of a pair hears everything, and it is written once.
        written = $1 ~ /pair/ ? all / 2 : all
        printf "%s: %.0f heartbeats/s; CPU-s per million: instances %s, PostgreSQL %.2f, broker %.2f; WAL %.0f bytes each\n",
            $1, written / (after[1] - before[1]), each,
            (after[2] - before[2]) / written * 1e6, (after[4] - before[4]) / written * 1e6,
            (after[3] - before[3]) / written
    }'
}

# The end of everything that a measurement has started.
stop() {
    local pid
    for pid in "${fleet-}" "${pids[@]-}" "${broker-}"; do
        [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    [ -z "${folder-}" ] || {
        as_postgres "$postgres/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1 || true
        rm -rf "$folder"
    }
    fleet='' broker='' folder='' pids=()
}
trap stop EXIT

# measure LABEL BINARY NAME...
measure() {
    local label=$1 program=$2 name before
    shift 2
    pids=() ports=()
    folder=$(mktemp -d)
    chmod 755 "$folder"
    [ "$(id -u)" -ne 0 ] || chown postgres "$folder"
    database_port=$(free_port)
    as_postgres "$postgres/initdb" -D "$folder/data" -A trust -U postgres -E UTF8 >/dev/null
    as_postgres "$postgres/pg_ctl" -D "$folder/data" -w -l "$folder/postgresql.log" -o \
        "-p $database_port -k $folder -c listen_addresses=127.0.0.1 -c max_wal_size=8GB -c checkpoint_timeout=30min -c shared_buffers=512MB" \
        start >/dev/null
    query 'CREATE DATABASE heartbeats' postgres
    local mqtt_port
    mqtt_port=$(free_port)
    printf '%s\n' "listener $mqtt_port 127.0.0.1" 'allow_anonymous true' 'persistence false' \
        'max_queued_messages 0' 'max_inflight_messages 0' >"$folder/mosquitto.conf"
    PATH=$PATH:/usr/sbin mosquitto -c "$folder/mosquitto.conf" >/dev/null 2>&1 &
    broker=$!
    local common=(
        HEARTBEATD_MQTT__URL="mqtt://127.0.0.1:$mqtt_port" HEARTBEATD_MQTT__QOS="$qos"
        HEARTBEATD_DATABASE__URL="postgres://postgres@127.0.0.1:$database_port/heartbeats"
    )
    [ "$label" != group ] || common+=(HEARTBEATD_MQTT__SHARE_GROUP=fleet HEARTBEATD_MQTT__SETTLE=0s)
    for name in "$@"; do
        local port
        port=$(free_port)
        (cd "$folder" && exec env "${common[@]}" HEARTBEATD_MQTT__CLIENT_ID="$name" \
            HEARTBEATD_HTTP__LISTEN="127.0.0.1:$port" "$program" run 2>>"$folder/$name.log") &
        pids+=($!) ports+=("$port")
        # They join one after the other.
        until [ "$(metric "$port" heartbeatd_listening)" = 1 ]; do sleep 0.2; done
    done
    query "INSERT INTO device (id, status, last_seen_at, registered_at)
           SELECT 'sim-' || lpad(i::text, ${#devices}, '0'), 'online', now.ms, now.ms
           FROM generate_series(1, $devices) i,
                (SELECT (extract(epoch FROM now()) * 1000)::bigint AS ms) now"
    query 'VACUUM ANALYZE'
    (cd "$folder" && exec "$binary" simulate --url "mqtt://127.0.0.1:$mqtt_port" \
        --devices "$devices" --period "${period}s" --qos "$qos" --dying 0 --burst 0 --errors 0 \
        --skewed 0 --malformed 0 --seed 16 2>>"$folder/fleet.log") &
    fleet=$!
    sleep "$warmup"
    before=$(reading)
    sleep "$measured"
    report "$label" "$before" "$(reading)"
    if [ "$only" = pair ]; then
        echo "$label: peak memory of the active instance $(peak "${pids[0]}") MB," \
            "table and indexes $(query "SELECT pg_total_relation_size('device') / $devices") bytes per device"
    fi
    if [ "$label" = group ]; then
        kill -9 "${pids[1]}"
        wait "${pids[1]}" 2>/dev/null || true
        sleep "$after_kill"
        echo "group, a member killed: $(metric "${ports[0]}" heartbeatd_group_blind_seconds_total) s not listened to," \
            "$(query "SELECT count(*) FROM status_transition WHERE to_status = 'offline'") devices offline," \
            "peak memory $(peak "${pids[0]}") MB"
    fi
    stop
}

if [ "$only" = pair ]; then
    measure pair "$binary" hall-a hall-b
    exit
fi
[ -z "$against" ] || measure 'one, the other build' "$against" hall-a
measure one "$binary" hall-a
[ -z "$against" ] || measure 'one, the other build' "$against" hall-a
[ -z "$against" ] || measure one "$binary" hall-a
measure pair "$binary" hall-a hall-b
measure group "$binary" hall-a hall-b hall-c
