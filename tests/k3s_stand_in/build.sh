#!/usr/bin/env bash
# Builds what the stand-in for K3s runs: Kubernetes from Debian's source package, and etcd, CNI
# plugins and a YAML reader from Debian's packages. Prints the folder that holds them, which is
# kept for the next time.
#
# usage: build.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH

readonly version=1.20.2
readonly programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl)
readonly debian_packages=(etcd-server etcd-client containernetworking-plugins python3-yaml)
# command that a package brings, and the package
readonly tools=(go:golang-go gcc:gcc make:make rsync:rsync dpkg-source:dpkg-dev strip:binutils patch:patch)

cache=${MUSTER_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/muster}

say() { printf 'k3s stand-in: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

install_tools() {
    local entry missing=()
    for entry in "${tools[@]}"; do
        command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    local root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    "${root[@]}" apt-get --quiet --quiet -o DPkg::Lock::Timeout=300 update >&2
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet --yes \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --no-install-recommends \
        "${missing[@]}" libc6-dev >&2 ||
        fail "apt-get could not install: ${missing[*]}"
}

# An apt of our own, beside the machine's: with the sources of its mirror, and nothing installed.
private_apt() {
    local apt=$work/apt
    mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,parts}
    PYTHONPATH=tests python -m k3s_stand_in.apt_sources "$apt/parts"
    : >"$apt/status"
    cat >"$apt/apt.conf" <<END
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/parts";
APT::Sandbox::User "root";
END
    export APT_CONFIG=$apt/apt.conf
    apt-get --quiet --quiet update >&2
}

build_kubernetes() {
    local source=$work/source
    (cd "$work" && apt-get --quiet --quiet source --download-only "kubernetes" >&2)
    rm -rf "$source"
    dpkg-source --extract "$work"/kubernetes_*.dsc "$source" >&2
    local package
    for package in component-base/version client-go/pkg/version; do
        cp tests/k3s_stand_in/stand_in.go "$source/staging/src/k8s.io/$package/"
    done
    say "building Kubernetes $version (about 15 CPU minutes)"
    (
        cd "$source"
        unset APT_CONFIG GOPATH GOBIN
        export GOCACHE=$work/go-cache GOFLAGS=-mod=vendor GOPROXY=off
        export KUBE_GIT_VERSION=v$version KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20
        export KUBE_GIT_TREE_STATE=clean KUBE_GIT_COMMIT=0000000000000000000000000000000000000000
        make all WHAT="${programs[*]/#/cmd/}" >&2
    )
    install_kubernetes "$source/_output/local/bin"
}

install_kubernetes() {
    local name
    for name in "${programs[@]}"; do
        install -D --strip "$1"/*/*/"$name" "$new/bin/$name"
    done
}

install_debian_packages() {
    local unpacked=$work/unpacked deb
    (cd "$work" && apt-get --quiet --quiet download "${debian_packages[@]}" >&2)
    for deb in "$work"/*.deb; do
        dpkg-deb --extract "$deb" "$unpacked"
    done
    mkdir -p "$new/bin" "$new/cni" "$new/python/yaml"
    cp "$unpacked"/usr/bin/{etcd,etcdctl} "$new/bin/"
    cp "$unpacked"/usr/lib/cni/* "$new/cni/"
    cp "$unpacked"/usr/lib/python3/dist-packages/yaml/*.py "$new/python/yaml/"
}

known_system() {
    # shellcheck source=/dev/null
    (. /etc/os-release && [ "$ID" = debian ] && [ "$VERSION_CODENAME" = bookworm ])
}

recipe() {
    uname --machine
    printf '%s\n' "${programs[@]}" "${debian_packages[@]}"
    declare -f build_kubernetes install_kubernetes install_debian_packages
    cat tests/k3s_stand_in/stand_in.go
}

key=$(recipe | sha256sum | cut -c1-12)
folder=$cache/kubernetes-$version-$key
mkdir -p "$cache"
if [ ! -d "$folder" ] && [ -z "${K3S_STAND_IN_LOCKED:-}" ]; then
    exec env K3S_STAND_IN_LOCKED=1 flock --close "$cache/kubernetes.lock" tests/k3s_stand_in/build.sh
fi
if [ ! -d "$folder" ]; then
    known_system || fail "expected Debian 12, whose source package is built; K3S_BINARY=... needs no build"
    install_tools
    rm -rf "$cache"/kubernetes-work.* # of a build that was killed: only one runs at a time
    work=$(mktemp --directory "$cache/kubernetes-work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    new=$work/new
    private_apt
    install_debian_packages
    if [ -n "${K3S_STAND_IN_BUILT:-}" ]; then
        install_kubernetes "$K3S_STAND_IN_BUILT" # programs that were built elsewhere
    else
        build_kubernetes
    fi
    mv "$new" "$folder"
fi
printf '%s\n' "$folder"
