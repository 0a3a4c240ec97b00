# Fails if the broker refuses the staged files. It starts in a network of its own, where its
# addresses are free and the upstream broker is out of reach, and without what waits on disk.
# usage: configuration=PATH folder=PATH, then this text; the names of staged files as placed
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
new() { echo "${1%/*}/.${1##*/}.muster-new"; }
trial=$configuration
[ -e "$(new "$configuration")" ] && trial=$(new "$configuration")
sed -e 's/^persistence true$/persistence false/' -e '/^pid_file /d' "$trial" >"$work/broker.conf"
for file in $(sed -n "s|.* \($folder/.*\)|\1|p" "$trial"); do
	[ -e "$(new "$file")" ] && sed -i "s|$file\$|$(new "$file")|" "$work/broker.conf"
done
chown -R mosquitto "$work"
unshare --net sh -c '
	ip link set lo up
	echo 1 >/proc/sys/net/ipv4/ip_nonlocal_bind
	exec timeout 2 mosquitto -c "$1"
' check "$work/broker.conf" >"$work/said" 2>&1
# whoever is still there when the time is over has taken the configuration
[ $? = 124 ] || {
	grep -E 'Error|error' "$work/said" | sed 's/\(remote_password\|password\) .*/\1 .../' >&2
	exit 1
}
