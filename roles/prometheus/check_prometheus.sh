# Fails if Prometheus refuses the staged rules or the staged configuration.
# usage: configuration=PATH rules=FOLDER, then this text
new() { echo "${1%/*}/.${1##*/}.muster-new"; }
for file in "$rules"/.*.yml.muster-new; do
	[ ! -e "$file" ] || promtool check rules "$file" >/dev/null || exit 1
done
[ ! -e "$(new "$configuration")" ] || promtool check config "$(new "$configuration")" >/dev/null
