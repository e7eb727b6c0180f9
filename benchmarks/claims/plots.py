"""Figures, drawn twice: by matplotlib as PNG, by plotly for the page."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignray.statistics import Interval

# One colour a curve (Okabe and Ito's, which the colour-blind can tell apart, in light and in dark).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
_POINTS = 40
"""From so many points on, a curve shows none of its own."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Some points, and the intervals of some.

    Attributes:
        name: As the legend calls it.
        x: Where.
        y: How much.
        low: The intervals' lower ends; None for no intervals.
        high: Their upper ends.
        joined: Whether a line goes through the points.
        labels: What the page says of each point.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    joined: bool = True
    labels: tuple[str, ...] | None = None

    @classmethod
    def of(cls, name: str, x: Iterable[float], intervals: Iterable[Interval], **more: Any) -> Curve:
        """A curve through estimates."""
        known = tuple(intervals)
        values, lows, highs = (tuple(getattr(each, end) for each in known) for end in ("value", "low", "high"))
        return cls(name, tuple(x), values, lows, highs, **more)


@dataclass(frozen=True, slots=True)
class Figure:
    """Curves in one pair of axes.

    Attributes:
        name: Of the file, without its ending.
        title: What is shown.
        x: The horizontal axis, with its unit.
        y: The vertical axis, with its unit.
        curves: What is drawn.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical one is.
        ticks: Names of the places 0, 1, 2 … on the horizontal axis, instead of numbers.
    """

    name: str
    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    log_x: bool = False
    log_y: bool = False
    ticks: tuple[str, ...] | None = None


def write_png(figure: Figure, folder: Path) -> Path:
    """Draw a figure into a file of the folder."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    canvas, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    for curve, colour in zip(figure.curves, itertools.cycle(_COLOURS), strict=False):
        style = {"color": colour, "label": curve.name, "marker": "o" if _shows_points(curve) else "", "markersize": 4}
        line = "-" if curve.joined else ""
        if curve.low is None or curve.high is None:
            axes.plot(curve.x, curve.y, linestyle=line, **style)
        else:
            axes.errorbar(curve.x, curve.y, _errors(curve), linestyle=line, capsize=2, elinewidth=1, **style)
    axes.set(xlabel=figure.x, ylabel=figure.y)
    axes.set_title(figure.title, fontsize="small")
    if figure.log_x:
        axes.set_xscale("log")
    if figure.log_y:
        axes.set_yscale("log")
    if figure.ticks is not None:
        axes.set_xticks(range(len(figure.ticks)), figure.ticks)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    path = folder / f"{figure.name}.png"
    canvas.savefig(path, dpi=150)
    pyplot.close(canvas)
    return path


def as_html(figure: Figure) -> str:
    """A figure as an element of a page that has plotly's script."""
    import plotly.graph_objects as go

    x_axis: dict[str, Any] = {"title": figure.x, "type": "log" if figure.log_x else "linear"}
    if figure.ticks is not None:
        x_axis |= {"tickvals": list(range(len(figure.ticks))), "ticktext": list(figure.ticks)}
    drawn = go.Figure(
        layout={
            "xaxis": x_axis,
            "yaxis": {"title": figure.y, "type": "log" if figure.log_y else "linear", "exponentformat": "power"},
            "height": 460,
            "margin": {"l": 70, "r": 10, "t": 10, "b": 50},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "legend": {"orientation": "h", "y": -0.18, "yanchor": "top"},
            "template": "none",
        }
    )
    for curve, colour in zip(figure.curves, itertools.cycle(_COLOURS), strict=False):
        mode = "+".join(["lines"] * curve.joined + ["markers"] * _shows_points(curve))
        bars = None
        if curve.low is not None:
            below, above = _errors(curve)
            bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1}
        labels = None if curve.labels is None else list(curve.labels)
        drawn.add_scatter(
            x=list(curve.x), y=list(curve.y), name=curve.name, mode=mode, text=labels, error_y=bars, marker_color=colour
        )
    return str(
        drawn.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=figure.name,
            config={"displayModeBar": False, "responsive": True},
        )
    )


def _shows_points(curve: Curve) -> bool:
    return not curve.joined or len(curve.x) < _POINTS


def _errors(curve: Curve) -> tuple[list[float], list[float]]:
    """How far the intervals reach below and above the points; 0 where there is none."""
    assert curve.low is not None
    assert curve.high is not None
    below = [max(value - low, 0.0) if low == low else 0.0 for value, low in zip(curve.y, curve.low, strict=True)]
    above = [max(high - value, 0.0) if high == high else 0.0 for value, high in zip(curve.y, curve.high, strict=True)]
    return below, above
