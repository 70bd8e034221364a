"""A sweep as a picture: step time and the fullest device over the number of devices."""

from __future__ import annotations

import importlib.util
import io

from partitioner.errors import SpecError
from partitioner.report.palette import INK, NEUTRAL, OKABE_ITO
from partitioner.report.sweep_table import Sweep, seconds_of

MARKERS = "os^Dv<>P"
GIB = 2**30


def picture(sweep: Sweep, form: str) -> bytes:
    """The picture as `"svg"`, `"png"` or `"pdf"`; equal sweeps, equal bytes.

    Each batch is a line with a colour and a mark of its own; what is worth having is filled, and a
    cross at the foot says that the batch does not fit.

    Raises:
        SpecError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise SpecError(
            "a picture of a sweep needs matplotlib; install it: pip install 'partitioner[pictures]'"
        )
    import matplotlib
    from matplotlib.figure import Figure

    worth = set(sweep.frontier)
    with matplotlib.rc_context({"svg.hashsalt": "partitioner", "font.size": 9}):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        time, memory = figure.subplots(1, 2)
        for place, batch in enumerate(dict.fromkeys(cell.batch for cell in sweep.cells)):
            cells = sorted((c for c in sweep.cells if c.batch == batch), key=lambda c: c.count)
            fitting = [cell for cell in cells if cell.fits]
            colour = OKABE_ITO[place % len(OKABE_ITO)]
            marker = MARKERS[place % len(MARKERS)]
            counts = [cell.count for cell in fitting]
            seconds = [1e3 * seconds_of(cell, sweep.objective) for cell in fitting]
            gib = [(cell.peak_nbytes or 0) / GIB for cell in fitting]
            label = "one batch" if batch is None else f"batch {batch}"
            for axes, values in ((time, seconds), (memory, gib)):
                axes.plot(counts, values, color=colour, label=label, zorder=1)
                for cell, count, value in zip(fitting, counts, values, strict=True):
                    fill = colour if cell in worth else "white"
                    axes.plot(count, value, marker=marker, color=colour, markerfacecolor=fill)
                lacking = [cell.count for cell in cells if cell.outcome == "does not fit"]
                foot = [0.02 + 0.05 * place] * len(lacking)
                axes.plot(lacking, foot, "x", color=colour, transform=axes.get_xaxis_transform())
        busy = sweep.objective == "throughput"
        time.set_ylabel("busiest device or link, ms" if busy else "one step, ms")
        memory.set_ylabel("fullest device, GiB")
        for axes in (time, memory):
            axes.set_xlabel("devices")
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color=NEUTRAL.full, alpha=0.3)
        time.legend(frameon=False)
        figure.suptitle(
            f"{sweep.model}, {'training' if sweep.mode == 'train' else 'inference'}: filled is "
            "worth having, a cross does not fit",
            color=INK,
        )
        file = io.BytesIO()
        dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
        figure.savefig(file, format=form, metadata=dates[form], dpi=150)
        return file.getvalue()
