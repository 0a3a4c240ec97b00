#!/usr/bin/env bash
# Sets up what Muster needs on Debian 12 and 13 and Ubuntu 22.04 and 24.04. Safe to repeat.
#
# usage: setup.sh [all|python]
#   all     system packages, a running Docker engine, and the Python environment
#   python  the Python environment in .venv alone
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin # where dockerd is, also for those who are not root

readonly uv_version=0.13.8
cache=${MUSTER_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/muster}

# command that a package brings, and the package
readonly packages=(
    mmdebstrap:mmdebstrap
    skopeo:skopeo
    minisign:minisign
    newuidmap:uidmap # for mmdebstrap without root's rights
    ssh:openssh-client
)

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

# Run a command as root, or return 126 without having tried.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && { [ -t 0 ] || sudo --non-interactive true 2>/dev/null; }; then
        sudo "$@"
    else
        return 126
    fi
}

known_system() {
    [ -r /etc/os-release ] || return 1
    # shellcheck source=/dev/null
    (. /etc/os-release && [ "$ID" = debian ] || [ "$ID" = ubuntu ])
}

# Install packages, or say which ones to install.
install_packages() {
    known_system || fail "this is neither Debian nor Ubuntu; install what these packages have: $*"
    say "installing $*"
    local status=0
    as_root apt-get --quiet --quiet -o DPkg::Lock::Timeout=300 update || status=$?
    if [ "$status" -eq 126 ]; then
        fail "no rights to install packages; as root, run: apt-get install --no-install-recommends $*"
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet --yes \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --no-install-recommends "$@" >&2 ||
        fail "apt-get could not install: $*"
}

# The programs of a PostgreSQL server, for the tests, which run one of their own.
postgresql_server() {
    if compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null; then
        return
    fi
    # Nobody asked for a server on this machine: have the package make no cluster and start none.
    local folder=/etc/postgresql-common/createcluster.d
    if known_system && [ ! -e /etc/postgresql-common ] && as_root mkdir -p "$folder"; then
        as_root tee "$folder/muster.conf" <<<'create_main_cluster = false' >/dev/null
    fi
    install_packages postgresql
}

docker_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

system_packages() {
    local entry missing=()
    for entry in "${packages[@]}"; do
        command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
    done
    # A client may be there without an engine, and an engine on another machine will do.
    if ! docker_answers && ! command -v dockerd >/dev/null; then
        missing+=(docker.io)
        # from Debian 13 on, the client is a package of its own
        if ! command -v docker >/dev/null && apt-cache show docker-cli >/dev/null 2>&1; then
            missing+=(docker-cli)
        fi
    fi
    if [ ${#missing[@]} -gt 0 ]; then
        install_packages "${missing[@]}"
    fi
    postgresql_server
}

# Start the Docker engine where it does not run. It is never stopped.
docker_engine() {
    docker_answers && return
    if [[ $(docker version 2>&1) == *"permission denied"* ]]; then
        fail "the Docker engine refuses $(id -un); as root, run: usermod -aG docker $(id -un), and log in again"
    fi
    local log=$cache/dockerd.log status=0
    if [ -d /run/systemd/system ]; then
        log="the journal: journalctl -u docker"
        as_root systemctl start docker || status=$?
    elif as_root true; then
        say "starting the Docker engine, which logs to $log"
        as_root setsid --fork dockerd </dev/null >>"$log" 2>&1
    else
        status=$?
    fi
    [ "$status" -ne 126 ] || fail "no rights to start the Docker engine; as root, start it"
    for _ in {1..120}; do
        docker_answers && return
        sleep 0.5
    done
    fail "the Docker engine does not answer; see $log"
}

find_python() {
    local name check='import ssl, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
    for name in python3 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$name" >/dev/null && "$name" -c "$check" 2>/dev/null; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

# Print the path of uv, after fetching it once.
bootstrap_uv() {
    local python=$1 folder=$cache/uv-$uv_version new
    if [ ! -x "$folder/bin/uv" ]; then
        new=$(mktemp --directory "$folder.XXXXXX")
        if ! "$python" -m venv "$new" >/dev/null 2>&1; then
            install_packages "python3-venv" "$(basename "$(readlink -f "$python")")-venv"
            "$python" -m venv "$new" >&2
        fi
        say "fetching uv $uv_version"
        "$new/bin/python" -m pip install --quiet "uv==$uv_version" >&2
        rm -rf "$folder"
        mv "$new" "$folder"
    fi
    printf '%s\n' "$folder/bin/uv"
}

# uv does not read pip's settings: hand over those that say where packages come from.
index_settings() {
    local index entry links=""
    index=${PIP_INDEX_URL:-$("$cache/uv-$uv_version/bin/python" -m pip config get global.index-url 2>/dev/null || true)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
    for entry in ${PIP_FIND_LINKS:-}; do
        # pip ignores a folder that is missing, uv refuses it
        if [[ $entry == *://* || -d $entry ]]; then
            links+=${links:+,}$entry
        fi
    done
    [ -z "$links" ] || export UV_FIND_LINKS=${UV_FIND_LINKS:-$links}
    [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}
}

python_environment() {
    local key python uv
    # the path is part of it, as scripts in an environment hold it
    key=$({ pwd && cat pyproject.toml scripts/setup.sh; } | sha256sum | cut -d' ' -f1)
    if [ -x .venv/bin/python ] && [ "$(cat .venv/setup-key 2>/dev/null)" = "$key" ]; then
        return
    fi
    if ! python=$(find_python); then
        install_packages python3 python3-venv
        python=$(find_python) || fail "expected Python 3.10 to 3.13, found $(python3 --version 2>&1)"
    fi
    uv=$(bootstrap_uv "$python")
    index_settings
    export UV_CACHE_DIR=$cache/uv UV_LINK_MODE=${UV_LINK_MODE:-copy} UV_PYTHON_DOWNLOADS=never
    say "setting up the Python environment in .venv"
    "$uv" venv --quiet --clear --python "$python" .venv
    "$uv" pip install --quiet --python .venv/bin/python --editable '.[dev]'
    printf '%s\n' "$key" >.venv/setup-key
}

mode=${1:-all}
[[ $mode == all || $mode == python ]] || fail "expected all or python, got $mode"
mkdir -p "$cache"
# the engine that this starts goes on running, and must not hold the lock: --close
if [ -z "${MUSTER_SETUP_LOCKED:-}" ]; then
    exec env MUSTER_SETUP_LOCKED=1 flock --close "$cache/setup.lock" "scripts/setup.sh" "$mode"
fi
if [ "$mode" = all ]; then
    system_packages
    docker_engine
fi
python_environment
