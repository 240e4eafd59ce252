# Sourced by the other scripts: installs what is missing, on Debian and Ubuntu.

# install_packages THING... - a THING is a program or a file. If its package has another
# name, that follows after a colon.
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

# Stops the servers that were just installed, because Debian starts them. Tests start their
# own, and mosquitto would take the port that heartbeatd uses.
leave_services_alone() {
    [ -d /run/systemd/system ] || return 0
    local service
    for service in mosquitto pgbouncer postgresql prometheus; do
        [[ " ${missing[*]} " == *" $service "* ]] || continue
        "${root[@]}" systemctl disable --now "$service" >&2 || true
    done
}

need_cargo() {
    # rustup puts cargo there, and adds the folder to the PATH of later shells only.
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null || {
        echo "Please install Rust 1.95 or newer: https://rustup.rs" >&2
        exit 69
    }
    use_installed_toolchain
}

# Uses an installed toolchain of the version in rust-toolchain.toml, whatever its name is. If
# it is called "stable", rustup would download the same version again, which needs a network.
use_installed_toolchain() {
    command -v rustup >/dev/null && [ -z "${RUSTUP_TOOLCHAIN:-}" ] || return 0
    local folder wanted name
    folder=$(dirname "${BASH_SOURCE[0]}")/..
    wanted=$(sed -n 's/^channel = "\(.*\)"$/\1/p' "$folder/rust-toolchain.toml")
    rustup toolchain list | grep -q "^$wanted" && return
    while read -r name _; do
        if [[ $(rustup run "$name" rustc --version 2>/dev/null) == "rustc $wanted "* ]]; then
            export RUSTUP_TOOLCHAIN=$name
            return
        fi
    done < <(rustup toolchain list)
}

# install_tool NAME VERSION - builds a program of the registry, unless that version is there.
# Without optimization: it runs for a second, and its build takes a fraction of the time.
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools
install_tool() {
    cargo install --debug --quiet --locked --root "$tools" --version "$2" "$1"
}

# For scripts/test.sh and scripts/advisories.sh.
install_cargo_deny() { install_tool cargo-deny 0.20.2; }

# npm_package FOLDER NAME VERSION SHA512 - unpacks a package into FOLDER/package, if its hash is
# the one that is written down.
npm_package() {
    local archive hash
    archive=$1/$(cd "$1" && npm pack --silent "$2@$3")
    hash=$(openssl dgst -sha512 -binary "$archive" | openssl base64 -A)
    [ "$hash" = "$4" ] || {
        echo "$2 $3 has the hash $hash, not $4" >&2
        exit 65
    }
    rm -rf "$1/package"
    tar -xzf "$archive" -C "$1"
}

# Brings axe-core, with which tests look for barriers in the page. It is not in the repository,
# because nothing else needs it.
install_axe() {
    local version=4.14.1 work
    [ "$(head -c 200 "$tools/axe.min.js" 2>/dev/null | grep -c "v$version")" = 0 ] || return 0
    work=$(mktemp -d)
    npm_package "$work" axe-core "$version" \
        FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==
    mkdir -p "$tools"
    cp "$work/package/axe.min.js" "$tools/"
    rm -rf "$work"
}
