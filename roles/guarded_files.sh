# Read on standard input by `sh -s`, after place_files.sh: a change that goes back by itself, after
# some time or with the next start of the device, unless somebody who could still connect confirms it.
UNDO=/var/lib/muster-undo

# arm NAME SECONDS <SCRIPT: the way back, which works without anybody
arm() {
	mkdir -p -m 700 "$UNDO" && undo_at_boot || fail "can't prepare the way back"
	cat >"$UNDO/.$1.new" && sync "$UNDO/.$1.new" && mv "$UNDO/.$1.new" "$UNDO/$1" &&
		sync "$UNDO" || fail "can't write to $UNDO"
	systemctl stop "muster-undo-$1.timer" 2>/dev/null
	systemd-run --quiet --collect --unit="muster-undo-$1" --on-active="$2" \
		--timer-property=AccuracySec=1s sh "$UNDO/$1" now || {
		rm "$UNDO/$1"
		fail "can't arm the way back"
	}
}

undo_at_boot() {
	unit=/etc/systemd/system/muster-undo.service
	cat >"$unit.new" <<-'end'
		[Unit]
		Description=Take back changes that nobody confirmed
		ConditionPathExistsGlob=/var/lib/muster-undo/[a-z]*
		DefaultDependencies=no
		After=local-fs.target
		Before=sysinit.target
		Conflicts=shutdown.target

		[Service]
		Type=oneshot
		ExecStart=/bin/sh -c 'for undo in /var/lib/muster-undo/[a-z]*; do sh "$undo" || :; done'

		[Install]
		WantedBy=sysinit.target
	end
	if cmp -s "$unit.new" "$unit"; then
		rm "$unit.new"
	else
		mv "$unit.new" "$unit" && systemctl daemon-reload
	fi && systemctl enable --quiet muster-undo.service
}

# The way back itself. It may run twice, and it may be cut off.
undo() {
	exec 9>"$UNDO/.lock" && flock 9
	[ -e "$UNDO/$name" ] || exit 0
	for path; do
		[ ! -e "$(kept "$path")" ] || { put_back "$path" && sync "${path%/*}"; }
	done
	[ "$when" != now ] || ( take_effect )
	rm -f "$UNDO/$name"
	logger --tag muster "the change $name was not confirmed, the former files are back"
}

confirm() {
	exec 9>"$UNDO/.lock" && flock 9
	[ -e "$UNDO/$name" ] || fail "not confirmed in time, so the former files are back"
	rm "$UNDO/$name" && sync "$UNDO"
	systemctl stop "muster-undo-$name.timer" 2>/dev/null
	forget "$@"
}
