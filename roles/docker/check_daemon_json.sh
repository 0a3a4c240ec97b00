# Fails unless the engine would start with the staged daemon.json ($staged) and the flags that its
# unit gives to it. dockerd itself decides, so that unknown keys, wrong types and clashes between
# the file and the flags are found for whatever version is installed.
set +u -f
[ ! -r /etc/default/docker ] || . /etc/default/docker
eval "set -- $(systemctl show docker.service --property=ExecStart --value |
	sed -n 's/.*argv\[\]=\(.*\) ; ignore_errors=.*/\1/p')"
if "$1" --help 2>&1 | grep -q -- --validate; then
	exec "$@" --config-file="$staged" --validate
fi
# Before version 23 it can't be asked. It reads its configuration first and then refuses to start
# beside a living process: given the number of this shell it never gets any further.
pidfile=$(mktemp)
echo $$ >"$pidfile"
answer=$("$@" --config-file="$staged" --pidfile="$pidfile" 2>&1)
rm -f "$pidfile"
case $answer in
*"pid file found"*) ;;
*)
	echo "$answer" >&2
	exit 1
	;;
esac
