"""EM as an animation: the rows and the components, and beside them the bound climbing log p(x)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from minorant.plots._frames import Frame, frames
from minorant.plots._path import EMPath, em_path
from minorant.plots._style import (
    INK,
    TICK_SIZE,
    TITLE_SIZE,
    dress,
    mixed,
    new_figure,
    outline,
    palette,
)

_CURVE, _BOUND, _GAP, _OLD_GAP = "#222222", "#009E73", "#C2185B", "#E191B1"
_COLOURS = 96


def em_animation(
    model: Any,
    X: Any,  # noqa: N803
    path: Any,
    *,
    columns: tuple[int, int] = (0, 1),
    frame_directory: Any = None,
    every_frame: bool = False,
    **options: Any,
) -> EMPath:
    """Write the animation of plain EM as a GIF, and its frames as PNG files if asked.

    Left: the rows in two columns, coloured by responsibility, and the components' ellipses at one
    and two standard deviations. Right: log p(x; theta) along EM's path, and the lower bound that
    touches it at each E-step and is climbed at each M-step; below, the gap between the two.

    Args:
        model: a mixture; parameters that are all given are the start, otherwise EM starts from a
            random partition of the rows.
        X: (n, d) table of at least two columns.
        path: where the GIF goes.
        columns: which two columns to draw.
        frame_directory: where PNG frames go; None for none.
        every_frame: write every frame, not only those that end a step.
        options: for :func:`em_path`: ``weights``, ``n_steps``, ``points_per_step``, ``tolerance``,
            ``random_state``.

    Returns:
        The arrays behind the picture.

    Raises:
        ValueError: when the table has fewer than two columns.

    Not for: large tables; every row is drawn in every frame.
    """
    climb = em_path(model, X, **{"tolerance": 1e-5, **options})
    if climb.values.shape[1] < 2:
        raise ValueError("The animation draws two columns; this table has one.")
    scene, shown = Scene(climb, columns), list(frames(climb))
    images = _flattened([scene.picture(frame) for frame in shown])
    _write_gif(images, [frame.milliseconds for frame in shown], path)
    if frame_directory is not None:
        kept = [i for i, frame in enumerate(shown) if every_frame or frame.is_key]
        _write_frames(images, kept, Path(frame_directory))
    return climb


class Scene:
    """The figure of one frame; :meth:`show` moves what moves."""

    def __init__(self, path: EMPath, columns: tuple[int, int]) -> None:
        """Draw what stays."""
        self.path, self.columns = path, list(columns)
        self.colours = palette(path.responsibilities.shape[1])
        self.figure = new_figure(9.6, 4.9, dpi=100)
        grid = self.figure.add_gridspec(2, 2, width_ratios=(1.0, 1.12), height_ratios=(3.0, 1.0))
        self.rows_axes = self.figure.add_subplot(grid[:, 0])
        self.curve_axes = self.figure.add_subplot(grid[0, 1])
        self.gap_axes = self.figure.add_subplot(grid[1, 1], sharex=self.curve_axes)
        self.figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        self._draw_rows()
        self._draw_curve()
        self._draw_gap()
        self._settle()

    def show(self, frame: Frame) -> None:
        """Move everything to a frame."""
        self.rows_axes.set_title(_sentence(frame), fontsize=TITLE_SIZE, color=INK, loc="left")
        self.points.set_color(mixed(frame.q))
        self._move_ellipses(frame.place)
        self._move_bound(frame)
        self._move_gap(frame)

    def picture(self, frame: Frame) -> Any:
        """A frame as a picture."""
        from PIL import Image

        self.show(frame)
        self.figure.canvas.draw()
        return Image.fromarray(np.asarray(self.figure.canvas.buffer_rgba())).convert("RGB")

    def _settle(self) -> None:
        """Lay the axes out once, so that nothing jumps from frame to frame."""
        first = next(frames(self.path))
        self.show(first)
        self.figure.canvas.draw()
        self.figure.set_layout_engine("none")

    def _draw_rows(self) -> None:
        names = [self.path.names[j] for j in self.columns]
        x, y = self.path.values[:, self.columns].T
        size = float(np.clip(6000.0 / len(x), 4.0, 22.0))
        self.points = self.rows_axes.scatter(x, y, s=size, alpha=0.8, linewidths=0)
        dress(self.rows_axes, " ", names[0], names[1])
        for set_limits, values in ((self.rows_axes.set_xlim, x), (self.rows_axes.set_ylim, y)):
            low, high = np.nanmin(values), np.nanmax(values)
            set_limits(low - 0.12 * (high - low), high + 0.12 * (high - low))
        self.ellipses = [
            [
                self.rows_axes.plot([], [], color=c, lw=w, solid_capstyle="round")[0]
                for w in (2.4, 1.3)
            ]
            for c in self.colours
        ]
        self.centres = [
            self.rows_axes.plot([], [], "X", color=c, mec="white", ms=10)[0] for c in self.colours
        ]

    def _draw_curve(self) -> None:
        axes, path = self.curve_axes, self.path
        axes.plot(path.step, path.log_evidence, color="#C9C9C9", lw=1.6, zorder=2)
        self.old_bounds = axes.plot([], [], color=_BOUND, lw=0.8, alpha=0.35, zorder=1)[0]
        self.climbed = axes.plot([], [], color=_CURVE, lw=2.2, zorder=3)[0]
        self.bound = axes.plot([], [], color=_BOUND, lw=2.4, zorder=4)[0]
        self.segment = axes.plot([], [], color=_GAP, lw=3.0, solid_capstyle="butt", zorder=5)[0]
        self.on_curve = axes.plot([], [], "o", mfc="white", mec=_CURVE, mew=1.8, ms=10, zorder=5)[0]
        self.on_bound = axes.plot([], [], "o", color=_BOUND, ms=6, zorder=6)[0]
        dress(axes, " ", "", "nats per row")
        axes.tick_params(labelbottom=False)
        axes.set_xlim(-0.4, path.step[-1] + 0.4)
        legend = axes.legend(
            [self.climbed, self.bound, self.segment],
            ["log p(x; θ)", "bound L(θ, q)", "gap = KL(q ‖ posterior)"],
            loc="upper left", ncols=3, fontsize=TICK_SIZE, frameon=False, borderpad=0.1,
            handlelength=1.1, columnspacing=1.2, handletextpad=0.5,
        )  # fmt: skip
        legend.set_in_layout(False)

    def _draw_gap(self) -> None:
        axes, path = self.gap_axes, self.path
        dress(axes, "", "EM step (position on the path)", "gap,\nnats per row")
        axes.set_yscale("log")
        after = np.diagonal(path.gaps[:-1, path.iterates[1:]])
        low = max(float(after[after > 0].min()), 1e-9)
        axes.set_ylim(0.4 * low, 3.0 * after.max())
        axes.yaxis.set_major_locator(_decades())
        axes.minorticks_off()
        axes.xaxis.set_major_locator(_whole_numbers())
        self.gap_trace = axes.plot([], [], color=_OLD_GAP, lw=1.1)[0]
        self.gap_now = axes.plot([], [], "o", color=_GAP, ms=6, mec="white", clip_on=True)[0]

    def _move_ellipses(self, place: int) -> None:
        if self.path.means is None or self.path.covariances is None:
            return
        means = self.path.means[place][:, self.columns]
        matrices = self.path.covariances[place][:, self.columns][:, :, self.columns]
        for mean, matrix, lines, centre in zip(
            means, matrices, self.ellipses, self.centres, strict=True
        ):
            centre.set_data(mean[:1], mean[1:])
            for line, deviations in zip(lines, (1.0, 2.0), strict=True):
                line.set_data(*outline(mean, matrix, deviations))

    def _move_bound(self, frame: Frame) -> None:
        path, x = self.path, self.path.step[frame.place]
        self.curve_axes.set_title(
            _headline(path, frame), fontsize=TITLE_SIZE, color=INK, loc="left"
        )
        self.curve_axes.set_ylim(*_limits(path, float(x)))
        self.climbed.set_data(path.step[: frame.place + 1], path.log_evidence[: frame.place + 1])
        self.bound.set_data(path.step, frame.bound)
        self.old_bounds.set_data(*_joined(path, frame.t))
        top, bottom = path.log_evidence[frame.place], frame.bound[frame.place]
        self.segment.set_data([x, x], [bottom, top])
        self.on_curve.set_data([x], [top])
        self.on_bound.set_data([x], [bottom])

    def _move_gap(self, frame: Frame) -> None:
        x, y = _sawtooth(self.path, frame)
        self.gap_trace.set_data(x, y)
        self.gap_now.set_data(x[-1:], y[-1:])


def _sentence(frame: Frame) -> str:
    return {
        "start": "The start: rows coloured by responsibility",
        "E": f"E-step {frame.t}: rows take the components' colours",
        "M": f"M-step {frame.t + 1}: components move to their rows",
        "end": f"The end, after {frame.t} EM steps",
    }[frame.phase]


def _headline(path: EMPath, frame: Frame) -> str:
    gap = max(path.log_evidence[frame.place] - frame.bound[frame.place], 0.0)
    value = path.log_evidence[frame.place]
    return f"log p = {value:.4f},  gap = {gap:.4f}  nats per row".replace("-", "−")


def _limits(path: EMPath, step: float) -> tuple[float, float]:
    """What the curve's axes show: the whole climb, or, once a far-off start is left, the rest."""
    values = path.log_evidence[path.iterates]
    wide = narrow = values[0]
    if len(values) > 2 and values[1] - values[0] > values[-1] - values[1] > 0:
        narrow = values[1]
    low = wide + min(step, 1.0) * (narrow - wide)
    room = values[-1] - low
    return float(low - 0.3 * room), float(values[-1] + 0.2 * room)


def _joined(path: EMPath, t: int) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of earlier steps as one line with breaks."""
    x = [np.r_[path.step, np.nan] for _ in range(t)]
    y = [np.r_[bound, np.nan] for bound in path.bounds[:t]]
    return np.concatenate([*x, [np.nan]]), np.concatenate([*y, [np.nan]])


def _sawtooth(path: EMPath, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """The gap so far: it opens along each M-step and closes at each E-step."""
    x, y = [np.array([0.0])], [np.array([np.nan])]
    passed = frame.t if frame.phase != "M" else frame.t + 1
    for t in range(passed):
        inside = slice(path.iterates[t] + 1, path.iterates[t + 1] + 1)
        x += [path.step[inside], path.step[inside][-1:]]
        y += [path.gaps[t, inside], np.array([1e-300])]
    x, y = np.concatenate(x), np.concatenate(y)
    if frame.phase == "M":
        seen = x <= path.step[frame.place]
        x, y = x[seen], y[seen]
        return (x[:-1], y[:-1]) if y[-1] == 1e-300 else (x, y)
    gap = path.log_evidence[frame.place] - frame.bound[frame.place]
    return x, np.r_[y[:-1], max(gap, 1e-300)]


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True, nbins=12)


def _decades() -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(base=10.0, numticks=4)


def _flattened(images: list[Any]) -> list[Any]:
    """All frames with one common palette, so that a GIF need only store what changes."""
    from PIL import Image

    chosen = images[:: max(len(images) // 6, 1)]
    width, height = images[0].size
    sheet = Image.new("RGB", (width, height * len(chosen)))
    for index, image in enumerate(chosen):
        sheet.paste(image, (0, index * height))
    common = Image.new("P", (1, 1))
    common.putpalette(_with_exact_colours(sheet.quantize(_COLOURS).getpalette() or []))
    return [image.quantize(palette=common, dither=Image.Dither.NONE) for image in images]


def _with_exact_colours(found: list[int]) -> list[int]:
    """The commonest colours, near-white made white, and those too rare to be among them."""
    commonest = np.array(found[: 3 * _COLOURS]).reshape(-1, 3)
    commonest[commonest.min(axis=1) > 247] = 255
    names = (_CURVE, _BOUND, _GAP, _OLD_GAP)
    return commonest.ravel().tolist() + [int(n[i : i + 2], 16) for n in names for i in (1, 3, 5)]


def _write_gif(images: list[Any], durations: list[int], path: Any) -> None:
    images[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        optimize=True,
    )


def _write_frames(images: list[Any], kept: list[int], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for index in kept:
        images[index].save(directory / f"frame_{index:03d}.png")
