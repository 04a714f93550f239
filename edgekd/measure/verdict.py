"""refusals: the reasons why a measurement allows no verdict, with remedies. Empty if it allows one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edgekd.figures.figures import DeviceState
from edgekd.measure.protocol import MIN_BLOCKS, STABLE_WITHIN, Series

CLOCKS_WITHIN = 0.05


def refusals(
    series: Sequence[tuple[str, Series]],
    states: Sequence[DeviceState],
    clocks_used: Sequence[str],
    power_modes: Mapping[str, int],
) -> tuple[str, ...]:
    """The reasons against a verdict, a sentence for each.

    series: (title, blocks); states: in the order of time, the first before and the last after all blocks; clocks_used:
    those of the cores or the GPU that ran the model; power_modes: name -> id on that device.
    """
    found = [reason for title, one in series for reason in unsteady(title, one)]
    return (*found, *changed(states, clocks_used, power_modes))


def unsteady(title: str, series: Series) -> Iterator[str]:
    """Sentences about blocks that drift, or samples that leave the median open."""
    medians, (low, high) = series.block_medians_ms, series.interval_ms
    if len(medians) < MIN_BLOCKS:
        yield f"{title}: {len(medians)} blocks; {MIN_BLOCKS} are needed to tell whether the device was steady"
    elif not series.stable:
        drift = 100 * series.noise_ms / min(medians)
        way = "slower and slower" if list(medians) == sorted(medians) else "up and down"
        yield (
            f"{title}: the blocks' medians differ by {drift:.1f} % ({way}; {100 * STABLE_WITHIN:g} % are allowed): end other "
            "programs there, let it cool, and measure again"
        )
    elif high - low > STABLE_WITHIN * series.p50_ms:
        yield (
            f"{title}: the median lies between {low:.4g} and {high:.4g} ms (95 %), as if there were two speeds: bind it to "
            "cores of one kind (--cpus), or measure longer (--block-s)"
        )


def changed(states: Sequence[DeviceState], clocks_used: Sequence[str], power_modes: Mapping[str, int]) -> Iterator[str]:
    """Sentences about changes of power mode, clocks and throttling, from the first state to the last."""
    modes = list(dict.fromkeys(state.power_mode for state in states if state.power_mode))
    if len(modes) > 1:
        number = power_modes.get(modes[0])
        fix = f"sudo nvpmodel -m {number}" if number is not None else "sudo nvpmodel -m ID"
        yield f"the power mode changed from {' to '.join(modes)} meanwhile: set it (`{fix}`) and measure again"
    clocks = [clock for clock in (fastest(state, clocks_used) for state in states[1:-1]) if clock]
    if clocks and max(clocks) - min(clocks) > CLOCKS_WITHIN * max(clocks):
        fix = "sudo jetson_clocks" if power_modes else "sudo cpupower frequency-set -g performance"
        yield (
            f"the clock changed between {min(clocks):.0f} and {max(clocks):.0f} MHz meanwhile: fix it (`{fix}`) and "
            "measure again"
        )
    counted = throttled(states)
    if counted:
        fix = "or choose a lower power mode (`sudo nvpmodel -m ID`)" if power_modes else "and its power supply"
        events = ", ".join(f"{name} +{n}" for name, n in counted.items())
        yield f"the device throttled itself ({events}): look after its cooling {fix}, and measure again"


def fastest(state: DeviceState, clocks_used: Sequence[str]) -> float | None:
    """The fastest clock in MHz of those that may run the model. Other cores may sleep."""
    return max((state.clocks_mhz[name] for name in clocks_used if name in state.clocks_mhz), default=None)


def throttled(states: Sequence[DeviceState]) -> dict[str, int]:
    """Counter -> new events from the first state to the last. Unchanged counters are left out."""
    first, last = states[0].throttle_counts, states[-1].throttle_counts
    grown = {name: last[name] - first.get(name, 0) for name in last}
    return {name: n for name, n in grown.items() if n > 0}
