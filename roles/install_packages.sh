# Read on standard input by `sh -s`.
set -u
# configuration that a role wrote before the package came is kept
export DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1

# install_packages NAME...
install_packages() {
	# apt waits for the lock of dpkg by itself, but not for the lock of its lists
	tries=60
	until error=$(apt-get --quiet --quiet update 2>&1); do
		case $error in
		*"ould not get lock"*) ;;
		*) tries=1 ;;
		esac
		tries=$((tries - 1))
		[ $tries -gt 0 ] || { echo "apt-get update: $error" >&2 && exit 1; }
		sleep 5
	done
	apt-get --quiet --yes --no-install-recommends \
		-o DPkg::Lock::Timeout=300 \
		-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
		-o Dpkg::Use-Pty=0 install "$@"
}
