"""The version that this copy passes itself off as; the maker of artifacts writes it here."""

VERSION = "v0.0.0+k3s0"
