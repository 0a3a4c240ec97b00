"""Gates: what to measure on a device, and what the measurements mean. Pure functions only."""

from muster.gates.assessing import assess, assess_probe, could_not_measure
from muster.gates.documents import (
    Gate,
    HttpGate,
    MetricsGate,
    ReadinessGate,
    SmokeInferenceGate,
)
from muster.gates.probe import Check, Measurements, checks
from muster.gates.verdicts import Assessment, Verdict, combine

__all__ = [
    "Gate",
    "HttpGate",
    "MetricsGate",
    "ReadinessGate",
    "SmokeInferenceGate",
    "Check",
    "Measurements",
    "checks",
    "assess",
    "assess_probe",
    "could_not_measure",
    "Assessment",
    "Verdict",
    "combine",
]
