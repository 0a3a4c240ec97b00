"""The digits example: a small real model, its server, its images and its releases."""

from .ask import answering_versions
from .build import VERSIONS, accuracy, build_images, golden_cases, smoke_cases
from .oci import OciImage
from .publish import publish

__all__ = [
    "VERSIONS",
    "OciImage",
    "accuracy",
    "answering_versions",
    "build_images",
    "golden_cases",
    "publish",
    "smoke_cases",
]
