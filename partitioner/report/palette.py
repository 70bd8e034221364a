"""One colour for each device, told apart by the colour-blind too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OKABE_ITO = (
    "#56B4E9",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#999999",
)
"""Okabe and Ito, "Color Universal Design" (2008), the black one as grey; in the order of use."""


@dataclass(frozen=True, slots=True)
class Colours:
    """How a device is drawn.

    Attributes:
        fill: a light tint, for dark text on it.
        line: a dark shade, for borders and edges.
        full: the colour itself.
        again: how often the palette had been used up before; told apart by the border's style.
    """

    fill: str
    line: str
    full: str
    again: int = 0


INK = "#222222"
PAPER = "#FFFFFF"
NEUTRAL = Colours("#F4F4F4", "#555555", "#999999")
"""For what is on no device."""


def palette(devices: Sequence[str]) -> dict[str, Colours]:
    """The colours of each device, by its place in the cluster."""
    return {
        device: Colours(
            fill=_mixed(full := OKABE_ITO[i % len(OKABE_ITO)], 255, 0.62),
            line=_mixed(full, 0, 0.35),
            full=full,
            again=i // len(OKABE_ITO),
        )
        for i, device in enumerate(devices)
    }


def _mixed(colour: str, with_grey: int, share: float) -> str:
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(p + (with_grey - p) * share):02X}" for p in parts)
