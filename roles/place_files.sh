# Replaces files so that no reader ever sees half of one, and so that the former version comes back
# when the new one does not work. Read on standard input by `sh -s`, followed by the steps.
set -u
umask 077

fail() {
	echo "$1" >&2
	exit 1
}

staged() { echo "${1%/*}/.${1##*/}.muster-new"; }
kept() { echo "${1%/*}/.${1##*/}.muster-before"; }
# for checks: the new version of a file, or the present one if it stays
newest() { if [ -e "$(staged "$1")" ]; then staged "$1"; else echo "$1"; fi; }

# stage PATH MODE OWNER <CONTENT
stage() {
	[ -d "${1%/*}" ] || (umask 022 && mkdir -p "${1%/*}") || fail "can't make ${1%/*}"
	cat >"$(staged "$1")" && chmod "$2" "$(staged "$1")" && chown "$3" "$(staged "$1")" &&
		sync "$(staged "$1")" || fail "can't write to ${1%/*}"
}

refuse() {
	for path; do rm -f "$(staged "$path")"; done
	fail "the new files were refused, nothing was changed"
}

# The former version stays beside the file until the new one is known to work. A folder stands for
# a file that was not there. What an earlier run left was the last one that worked.
keep() {
	for path; do
		[ -e "$(kept "$path")" ] && continue
		if [ -e "$path" ]; then
			cp -a "$path" "$(kept "$path").new" && mv -T "$(kept "$path").new" "$(kept "$path")"
		else
			mkdir "$(kept "$path")"
		fi || fail "can't keep the former $path"
	done
}

put_in_place() {
	for path; do
		mv -f -T "$(staged "$path")" "$path" && sync "${path%/*}" || fail "can't replace $path"
	done
}

put_back() {
	for path; do
		if [ -d "$(kept "$path")" ]; then
			rm -f "$path" && rmdir "$(kept "$path")"
		else
			mv -f -T "$(kept "$path")" "$path"
		fi
	done
}

forget() {
	for path; do rm -rf "$(kept "$path")"; done
}
