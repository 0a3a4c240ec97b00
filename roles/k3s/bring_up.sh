# Read on standard input by `sh -s`, after place_files.sh and these variables: unit, role, node,
# version, kubeconfig, seconds, voter, jsonpath, absent, lost.
BINARY=/usr/local/bin/k3s
CONFIG=/etc/rancher/k3s/config.yaml
DROPINS=$CONFIG.d
MEMBER=/var/lib/rancher/k3s/server/db/etcd/member
# so many starts that fail, and it won't come up
ATTEMPTS=4

# Not while something else is done to K3s here, nor between the steps of a restore.
alone() {
	exec 9>>/run/muster-k3s.lock
	flock --nonblock 9 || fail "something else is done to K3s on $node, nothing was changed: try again later"
	[ ! -e /run/muster-k3s.stopped ] ||
		fail "K3s was stopped on $node for \`muster k3s restore\`, which is at work or was cut off, nothing was changed: run that again, or remove /run/muster-k3s.stopped"
}

sum_of() { sha256sum "$1" 2>/dev/null | cut -d ' ' -f 1; }

# clear_staged SHA256: what a run that was cut off has staged is not to be checked as new, nor to be placed
clear_staged() {
	rm -f "$(staged "$CONFIG")" "$DROPINS"/.*.muster-new
	[ "$(sum_of $BINARY)" != "$1" ] || [ "$(sum_of "$(staged $BINARY)")" = "$1" ] ||
		rm -f "$(staged $BINARY)"
}

# K3s itself reads the new documents, with the new binary, and starts nothing.
check_configuration() {
	folder=$(mktemp -d /run/muster-k3s.XXXXXX) || return 1
	mkdir "$folder/config.yaml.d" && cat "$(newest "$CONFIG")" >"$folder/config.yaml" || return 1
	for file in "$DROPINS"/*.yaml "$DROPINS"/*.yml; do
		[ ! -f "$file" ] || cat "$(newest "$file")" >"$folder/config.yaml.d/${file##*/}"
	done
	for file in "$DROPINS"/.*.muster-new; do
		[ -f "$file" ] || continue
		name=${file##*/.}
		cat "$file" >"$folder/config.yaml.d/${name%.muster-new}"
	done
	for file in $absent; do rm -f "$folder/config.yaml.d/${file##*/}"; done
	said=$(timeout 60 "$(newest $BINARY)" "$role" --config "$folder/config.yaml" --help 2>&1 >/dev/null)
	status=$?
	rm -rf "$folder"
	case $said in *"Unknown flag"*) status=1 ;; esac
	[ $status -eq 0 ] && return 0
	echo "K3s does not understand the new configuration:" >&2
	echo "$said" | grep -v '^$' | head -n 3 >&2
	return 1
}

# binary_in_place SHA256: an earlier run may have come so far already
binary_in_place() {
	if [ -e "$(staged $BINARY)" ]; then
		[ "$(sum_of "$(staged $BINARY)")" = "$1" ] || fail "the binary that waits is another one now, nothing was replaced"
		put_in_place $BINARY
	else
		[ "$(sum_of $BINARY)" = "$1" ] || fail "expected a new binary, none waits"
	fi
}

# with the binary they come, and with it they go; what somebody has installed under a name stays
links() {
	for name in kubectl crictl ctr; do
		link=/usr/local/bin/$name
		if [ ! -e $BINARY ]; then
			[ "$(readlink $link)" != k3s ] || rm -f $link
		elif [ ! -e $link ] && [ ! -L $link ]; then
			ln -s k3s $link
		fi
	done
}

# The other members count on it from then on: without it they may have no majority.
has_joined_etcd() { [ "$voter" -eq 1 ] && [ -d $MEMBER ] && grep -q '^server:' $CONFIG; }

uptime_seconds() { cut -d . -f 1 /proc/uptime; }

state_of_node() {
	timeout 15 $BINARY kubectl --kubeconfig "$kubeconfig" get node "$node" \
		--output "jsonpath=$jsonpath" 2>/dev/null
}

# Ready as of before the start says nothing of the kubelet that runs now.
# is_ready VERSION SINCE
is_ready() {
	state=$(state_of_node)
	[ -n "$state" ] || { why="the cluster does not tell of $node"; return 1; }
	[ "${state%% *}" = "$1" ] || { why="its kubelet is ${state%% *}, not $1"; return 1; }
	beat=$(echo "$state" | tr ' ' '\n' | sed -n 's/^Ready=True@//p')
	[ -n "$beat" ] || { why="it is not Ready"; return 1; }
	[ "$(printf '%s\n%s\n' "$2" "$beat" | LC_ALL=C sort | head -n 1)" = "$2" ] ||
		{ why="it was not heard of since its start"; return 1; }
	[ "$voter" -eq 0 ] && return 0
	case $state in
	*" EtcdIsVoter=True@"*) return 0 ;;
	esac
	why="it is no voter of etcd yet"
	return 1
}

# wait_until_ready VERSION SINCE
wait_until_ready() {
	end=$(($(uptime_seconds) + seconds))
	why="it was not looked at"
	until is_ready "$1" "$2"; do
		restarts=$(systemctl show --property NRestarts "$unit" | cut -d = -f 2)
		if [ "${restarts:-0}" -ge $ATTEMPTS ]; then
			why="K3s ended $restarts times"
			return 1
		fi
		[ "$(uptime_seconds)" -lt "$end" ] || return 1
		sleep 1
	done
}

# The longest lines are the ones that say why; the last of them that is no mere information.
explain() {
	echo "$node is not serving: $why" >&2
	journalctl --unit "$unit" --lines 200 --no-pager --output cat |
		grep -E 'level=(fatal|error)|^[EF][0-9]{4} |Incorrect Usage' | tail -n 20 | cut -c 1-500 | uniq | tail -n 3 >&2
}

# A node that is made anew gets other addresses for its pods; a bridge with the former ones stays as
# it is, and no pod would start. Nothing uses it: what runs there is of no pod that the cluster knows.
forget_network() {
	for link in cni0 flannel.1; do
		[ ! -e "/sys/class/net/$link" ] || ip link delete "$link"
	done
}

# The cluster knows no more which models are to run here; their program does.
ask_for_models() {
	for state in /var/lib/muster/*/state.json; do
		[ -f "$state" ] || continue
		model=${state%/*}
		printf '{"model": "%s"}' "${model##*/}" | /usr/local/sbin/muster-device inspect >/dev/null 2>&1
	done
}

# start_and_wait VERSION
start_and_wait() {
	systemctl daemon-reload
	systemctl enable --quiet "$unit" && systemctl reset-failed "$unit" 2>/dev/null
	# What the kubelet says that still runs is not to be taken for the new one's: times have seconds.
	systemctl stop "$unit" && sleep 1
	[ -z "$lost" ] || forget_network
	since=$(date -u +%Y-%m-%dT%H:%M:%SZ)
	# --no-block: a unit of type notify is waited for until it is ready, and that may be never
	systemctl start --no-block "$unit" && wait_until_ready "$1" "$since"
}

# go_back PATH...: to what ran before, or to nothing where nothing did and nobody counts on it
go_back() {
	explain
	before=$([ ! -f "$(kept $BINARY)" ] || echo yes)
	[ -d "$(kept /etc/systemd/system/"$unit")" ] && first=yes || first=
	if [ -n "$first" ] && has_joined_etcd; then
		forget "$@"
		fail "$node is a member of etcd now and stays: mend it, provision again"
	fi
	[ -z "$first" ] || systemctl disable --quiet --now "$unit"
	put_back "$@"
	links
	systemctl daemon-reload
	[ -z "$first" ] || fail "$unit was stopped, and what was new is gone"
	former=$($BINARY --version | sed -n 's/^k3s version \([^ ]*\).*/\1/p')
	start_and_wait "$former" && fail "K3s $former runs again with its former configuration"
	explain
	fail "K3s ${former:-as it was before} does not come up either${before:+, with its former binary}"
}
