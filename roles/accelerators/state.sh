# Tells one thing in a line about whether an accelerator works.

# smoke_test SECONDS COMMAND
smoke_test() {
	said=$(timeout "$1" sh -c "$2" 2>&1 </dev/null)
	status=$?
	echo "status $status"
	[ $status -eq 0 ] || printf '%s\n' "$said" | tail -n 4 | cut -c 1-300 | sed 's/^/said /'
}

# The upstream version of the first of some packages that is installed.
package() {
	part=$1
	shift
	for name; do
		version=$(dpkg-query --show --showformat='${db:Status-Status} ${Version}' "$name" 2>/dev/null)
		case $version in
		"installed "*)
			version=${version#installed }
			version=${version#*:}
			echo "version $part ${version%-*}"
			return
			;;
		esac
	done
}

# The version in the name of a library: library NAME
library() {
	for file in /usr/lib/*/"$1".so.*.* /usr/lib/"$1".so.*.*; do
		[ -e "$file" ] && echo "version library ${file##*.so.}" && return
	done
}

versions_of_nvidia() {
	library libnvidia-ml
	package toolkit nvidia-container-toolkit-base
}
versions_of_jetson() {
	package library nvidia-l4t-core
	package toolkit nvidia-container-toolkit-base
}
versions_of_coral() { package library libedgetpu1-std libedgetpu1-max; }
versions_of_hailo() {
	library libhailort
	timeout 20 hailortcli fw-control identify 2>/dev/null |
		sed -n 's/^Firmware Version: *\([0-9.]*\).*/version firmware \1/p' | head -n 1
}
versions_of_intel() { package library intel-opencl-icd intel-level-zero-npu; }
versions_of_cpu() { :; }
