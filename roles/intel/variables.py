"""Inputs of the role intel."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from roles.accelerators.inputs import (
    PACKAGES_TEXT,
    PACKAGES_TYPE,
    AcceleratorVariables,
    Command,
    Group,
    Packages,
)
from roles.variables import variable


class Variables(AcceleratorVariables):
    """Intel GPU or NPU."""

    kind: ClassVar[str] = "intel"

    intel_gpu_packages: Annotated[Packages, Field(min_length=1)] = variable(
        {"intel-opencl-icd": None, "clinfo": None},
        "packages of a device with a GPU" + PACKAGES_TEXT,
        shown_type=PACKAGES_TYPE,
    )
    intel_npu_packages: Annotated[Packages, Field(min_length=1)] = variable(
        {
            "intel-driver-compiler-npu": None,
            "intel-fw-npu": None,
            "intel-level-zero-npu": None,
            "libtbb12": None,
        },
        "packages of a device with an NPU" + PACKAGES_TEXT,
        shown_type=PACKAGES_TYPE,
    )
    intel_group: Group = variable(
        "render", "group that may use GPU and NPU, besides root", shown_type="name"
    )
    intel_gpu_smoke_test: Command = variable(
        "clinfo --list | grep -q Device",
        "command that fails unless the GPU works",
        shown_type="shell command",
    )
    intel_npu_smoke_test: Command = variable(
        "for name in npu vpu; do"
        " python3 -c \"import ctypes; ctypes.CDLL('libze_intel_$name.so.1')\" && exit; done;"
        " exit 1",
        "command that fails unless the NPU works; the default finds out whether the library"
        " loads, asking OpenVINO for its devices says more, where the image has it",
        shown_type="shell command",
    )
