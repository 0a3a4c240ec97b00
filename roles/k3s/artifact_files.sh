# Read on standard input by `sh -s`, after place_files.sh.
RECORDS=/usr/local/share/muster-k3s
IMAGES=/var/lib/rancher/k3s/agent/images

# verified PATH SHA256: whether a file is what it should be; another one is removed
verified() {
	found=$(sha256sum "$1" | cut -d ' ' -f 1)
	[ "$found" = "$2" ] && return 0
	rm -f "$1"
	fail "expected the checksum $2 of what was to become ${3:-$1}, got ${found:-no file}: nothing was replaced"
}

# binary_is_staged SHA256
binary_is_staged() {
	new=$(staged /usr/local/bin/k3s)
	verified "$new" "$1" /usr/local/bin/k3s
	chmod 755 "$new" && chown root:root "$new" && sync "$new" || fail "can't stage the binary"
}

# put_images NAME SHA256: from IMAGES/.NAME.muster-new
put_images() {
	new=$(staged "$IMAGES/$1")
	verified "$new" "$2" "$IMAGES/$1"
	chmod 644 "$new" && chown root:root "$new" && sync "$new" && mv -f -T "$new" "$IMAGES/$1" &&
		sync "$IMAGES" || fail "can't put $IMAGES/$1 in place"
	# another form of the same archive would be imported again with each start
	for other in "$IMAGES"/k3s-airgap-images-*; do
		[ "$other" = "$IMAGES/$1" ] || rm -f "$other"
	done
	(umask 022 && mkdir -p "$RECORDS") &&
		echo "$2 $(stat -c '%s %Y' "$IMAGES/$1") $1" >"$RECORDS/.images.new" &&
		mv -f -T "$RECORDS/.images.new" "$RECORDS/images" || fail "can't write to $RECORDS"
}

# record VERSION <SUMS
record() {
	(umask 022 && mkdir -p "$RECORDS") && cat >"$RECORDS/.$1.new" &&
		mv -f -T "$RECORDS/.$1.new" "$RECORDS/$1.sums" || fail "can't write to $RECORDS"
	for other in "$RECORDS"/*.sums; do
		[ "$other" = "$RECORDS/$1.sums" ] || rm -f "$other"
	done
}
