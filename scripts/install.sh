# Sourced by the other scripts: installs what is missing, on Debian and Ubuntu.

# install_packages THING... - a THING is a program or a file, and after a colon
# the package that has it, if that is called otherwise.
install_packages() {
    local thing probe missing=()
    for thing in "$@"; do
        probe=${thing%%:*}
        have "$probe" || missing+=("${thing#*:}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if ! command -v apt-get >/dev/null; then
        echo "Please install what provides: ${missing[*]}" >&2
        echo "(these are Debian's names; apt-get, which would install them, is not here)" >&2
        exit 69
    fi
    echo "Installing ${missing[*]}" >&2
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "As root, please run: apt-get install ${missing[*]}" >&2
            exit 69
        }
        root=(sudo)
    fi
    "${root[@]}" apt-get update -qq >&2
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2
    leave_services_alone
}

have() {
    case $1 in
    */*) compgen -G "$1" >/dev/null ;;
    *) PATH=$PATH:/usr/sbin command -v "$1" >/dev/null ;;
    esac
}

# Debian starts a server that it installs. What is installed here is for tests
# that start their own; and mosquitto would take the port that heartbeatd uses.
leave_services_alone() {
    [ -d /run/systemd/system ] || return 0
    local service
    for service in mosquitto pgbouncer postgresql; do
        [[ " ${missing[*]} " == *" $service "* ]] || continue
        "${root[@]}" systemctl disable --now "$service" >&2 || true
    done
}

need_cargo() {
    command -v cargo >/dev/null && return
    # rustup puts it there, and into the PATH of shells to come.
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null && return
    echo "Please install Rust 1.95 or newer: https://rustup.rs" >&2
    exit 69
}
