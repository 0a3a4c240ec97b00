"""Whatever goes wrong, every device ends on the new release or its last good one."""

from __future__ import annotations

from drill import Drill, strategy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.fleet.interface import Verb
from muster.fleet.simulated import Fault, FaultKind, Quality, SimulatedFleet
from muster.rollout.decide import EXIT_OK
from muster.rollout.journal import Journal
from muster.rollout.machine import FINAL_ROLLOUT, DeviceState, RolloutState

D, R = DeviceState, RolloutState
NAMES = [f"d{index:04d}" for index in range(5)]

faults = st.lists(
    st.builds(
        Fault,
        st.sampled_from(NAMES),
        st.sampled_from(list(Verb)),
        st.sampled_from(list(FaultKind)),
        st.integers(1, 2),
    ),
    max_size=4,
)
qualities = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(list(Quality)), max_size=3)
breaches = st.sampled_from(["pause", "abort", "roll_back_wave", "roll_back_rollout"])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(faults, qualities, breaches, st.integers(0, 2), st.sampled_from([0, 20]))
def test_every_device_ends_on_the_new_or_its_last_good_release(
    faults: list[Fault], qualities: dict[str, Quality], on_breach: str, budget: int, soak: int
) -> None:
    drill = Drill(Journal("sqlite://"))
    new, old = drill.release.id, drill.old.id

    def quality(device: str, release: str | None) -> Quality:
        return qualities.get(device, Quality.GOOD) if release == new else Quality.GOOD

    fleet = SimulatedFleet(drill.devices(5), quality, faults)
    snapshot = drill.prepare(
        fleet,
        strategy(
            waves=[{"size": 2, "soak": soak}, {"size": "rest"}],
            failure_budget={
                "max_failed": budget,
                "max_unreachable": "100%",
                "on_breach": on_breach,
            },
        ),
    )
    state = drill.drive(snapshot, fleet)
    for _ in range(6):  # a person resumes a paused rollout until it ends
        if state is not R.PAUSED:
            break
        state = drill.drive(snapshot, fleet)
    assert state in FINAL_ROLLOUT

    fleet.let_guards_act()
    for name, record in drill.records(snapshot).items():
        device = fleet.devices[name]
        assert device.phase == "idle"
        assert device.current in {old, new}
        assert device.current == device.last_good
        if record.state is D.COMMITTED:
            assert device.current == new
        elif record.state in {D.ROLLED_BACK, D.PENDING, D.STAGED, D.REJECTED}:
            assert device.current == old
        if device.current == new and record.state is not D.LOST:
            # A bad release never stays where its gates could be measured.
            assert quality(name, new) is Quality.GOOD
    exit_code = drill.journal.load(snapshot.rollout.id).rollout.exit_code
    if exit_code == EXIT_OK:
        assert {device.current for device in fleet.devices.values()} == {new}
    drill.journal.close()
