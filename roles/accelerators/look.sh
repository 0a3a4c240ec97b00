# Tells one thing in a line about the hardware. usage: look [OTHER_ROOT]
# What the device has itself comes first. No program is started for what the shell can read.
value() { [ -r "$1" ] && { read -r "$2" <"$1" || :; }; }
look() {
	echo "kernel $(uname -r)"
	for root in '' "$@"; do
		for at in "$root"/sys/bus/pci/devices/*; do
			value "$at/vendor" vendor && value "$at/device" device && value "$at/class" class || continue
			driver=
			[ -e "$at/driver" ] && driver=$(readlink -f "$at/driver") && driver=${driver##*/}
			echo "pci ${vendor#0x}:${device#0x} ${class#0x} $driver"
		done
		for at in "$root"/sys/bus/usb/devices/*; do
			value "$at/idVendor" vendor && value "$at/idProduct" product || continue
			node=
			value "$at/busnum" bus && value "$at/devnum" number &&
				node=$(printf /dev/bus/usb/%03d/%03d "$bus" "$number")
			echo "usb $vendor:$product $node"
		done
		for module in nvidia gasket apex hailo hailo_pci hailo1x_pci i915 xe intel_vpu; do
			[ -d "$root/sys/module/$module" ] || continue
			version=
			value "$root/sys/module/$module/version" version
			echo "module $module $version"
		done
		[ ! -r "$root/proc/device-tree/model" ] ||
			echo "text model $(tr -d '\000' <"$root/proc/device-tree/model")"
		value "$root/proc/driver/nvidia/version" line && echo "text nvidia $line"
	done
	value /etc/nv_tegra_release line && echo "text tegra $line"
	for node in /dev/nvidia[0-9]* /dev/nvidiactl /dev/nvhost-gpu /dev/nvmap /dev/apex_[0-9]* \
		/dev/hailo[0-9]* /dev/dri/renderD[0-9]* /dev/accel/accel[0-9]*; do
		[ ! -e "$node" ] || echo "node $node"
	done
	true
}
