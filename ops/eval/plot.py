#!/usr/bin/env python3
"""Draws what `varve eval --out DIR` measured: reads DIR/results.json, writes plots beside it, each as PNG and SVG.

    kl          divergence from exact KV against bits per value
    retrieval   exact match against bits per value, with its interval and the score of exact KV
    rate        error against bits per value, beside the bounds for Gaussian values
    planted     error of attention's output, and needles found, against the length

A plot whose figures are not there is not drawn. Exit code 3: matplotlib is missing. `varve` has this file built in.
"""
import json
import re
import sys
from pathlib import Path

try:
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit(3)

# Okabe and Ito's colours, told apart by the colour-blind; a family of codecs has one, and a marker of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = "os^Dv<>pP*X"
REFERENCES = {"shannon": ("Shannon", "-"), "lloyd-max": ("Lloyd-Max, 16-bit norm", "--"), "min-max": ("min-max of 128", ":")}
FLOOR = 1e-6  # what logarithmic axes show of zero


def family(codec):
    """rot4, rot3 and rot2 are one line."""
    return re.sub(r"\d+.*$", "", codec)


def label_of(row):
    return row["codec"] if row["policy"] == "full" else f'{row["codec"]} {row["policy"]}'


def styles(rows):
    names = list(dict.fromkeys(family(row["codec"]) for row in rows))
    return {name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]} for i, name in enumerate(names)}


def label_place(style, name):
    """Neighbouring families are labelled on different sides of their points."""
    is_right = list(style).index(name) % 2 == 0
    return {"xytext": (4, 4) if is_right else (-4, -9), "ha": "left" if is_right else "right", "textcoords": "offset points",
            "fontsize": 7, "color": style[name]["color"]}


def panels(rows):
    """Rows by model and scale of outliers, in order."""
    found = {}
    for row in rows:
        found.setdefault((row["model"], row["outliers"]), []).append(row)
    return found


def title_of(model, outliers):
    return model if outliers == 1 else f"{model}, outlier channels x{outliers:g}"


def new_figure(count):
    figure, axes = plt.subplots(1, count, figsize=(5.4 * count, 4.4), squeeze=False, layout="constrained")
    for axis in axes[0]:
        axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes[0]


def save(figure, directory, name):
    for extension in ("png", "svg"):
        figure.savefig(directory / f"{name}.{extension}", dpi=150)
    plt.close(figure)


def draw_codecs(axis, rows, figure_name, interval=None):
    """One point for each row, joined within a family and policy, labelled at the point."""
    style = styles(rows)
    lines = {}
    for row in rows:
        lines.setdefault((family(row["codec"]), row["policy"]), []).append(row)
    for (name, _), points in lines.items():
        points.sort(key=lambda row: row["bpe"])
        x = [row["bpe"] for row in points]
        y = [max(row[figure_name], FLOOR) if interval is None else row[figure_name] for row in points]
        axis.plot(x, y, linewidth=1.2, markersize=5, **style[name])
        if interval:
            low, high = ([row[key] for row in points] for key in interval)
            axis.errorbar(x, y, yerr=[[a - b for a, b in zip(y, low)], [b - a for a, b in zip(y, high)]], fmt="none",
                          ecolor=style[name]["color"], elinewidth=0.8, capsize=2)
        for row, px, py in zip(points, x, y):
            axis.annotate(label_of(row), (px, py), **label_place(style, name))
    axis.set_xscale("log", base=2)
    axis.set_xticks([1, 2, 3, 4, 6, 8, 16], ["1", "2", "3", "4", "6", "8", "16"])
    axis.minorticks_off()
    axis.set_xlabel("bits per value, everything stored included")


def plot_kl(rows, directory):
    by_panel = panels([row for row in rows if "kl_mean" in row])
    if not by_panel:
        return
    figure, axes = new_figure(len(by_panel))
    for axis, ((model, outliers), own) in zip(axes, by_panel.items()):
        draw_codecs(axis, own, "kl_mean")
        axis.set_yscale("log")
        axis.set_ylabel("KL divergence from exact KV, nats, mean")
        axis.set_title(title_of(model, outliers))
    save(figure, directory, "kl")


def plot_retrieval(rows, directory):
    by_panel = panels([row for row in rows if "retrieval_exact" in row])
    if not by_panel:
        return
    figure, axes = new_figure(len(by_panel))
    for axis, ((model, outliers), own) in zip(axes, by_panel.items()):
        draw_codecs(axis, own, "retrieval_exact", ("retrieval_low", "retrieval_high"))
        axis.axhline(own[0]["retrieval_exact_kv"], color="#666666", linestyle="--", linewidth=1)
        axis.annotate("exact KV", (1, own[0]["retrieval_exact_kv"]), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                      fontsize=7, color="#666666")
        axis.set_ylim(-0.03, 1.05)
        axis.set_ylabel("questions answered exactly (95 % interval)")
        axis.set_title(title_of(model, outliers))
    save(figure, directory, "retrieval")


def plot_rate(rows, directory):
    rate = [row for row in rows if row["part"] == "rate"]
    by_panel = panels([row for row in rate if row["policy"] != "reference"])
    if not by_panel:
        return
    figure, axes = new_figure(len(by_panel))
    for axis, ((model, outliers), own) in zip(axes, by_panel.items()):
        for name, (label, dashes) in REFERENCES.items():
            line = [row for row in rate if row["policy"] == "reference" and row["codec"] == name]
            axis.plot([row["bpe"] for row in line], [row["mse"] for row in line], color="#666666", linewidth=1, linestyle=dashes, label=label)
        draw_codecs(axis, [row for row in own if row["bpe"] < 10], "mse")
        axis.set_yscale("log")
        axis.set_ylabel("squared error / squared size")
        axis.set_title(title_of(model, outliers))
        axis.legend(fontsize=7, frameon=False)
    save(figure, directory, "rate")


def plot_planted(rows, directory):
    by_panel = panels([row for row in rows if row["part"] == "planted"])
    if not by_panel:
        return
    figures = (("output_error", "error of the output, relative", "log"), ("needle_argmax", "needles found", "linear"))
    figure, axes = new_figure(len(by_panel) * len(figures))
    at = iter(axes)
    for (model, outliers), own in by_panel.items():
        style = styles(own)
        for name, what, scale in figures:
            axis = next(at)
            for codec in dict.fromkeys(row["codec"] for row in own):
                points = [row for row in own if row["codec"] == codec]
                y = [max(row[name], FLOOR) if scale == "log" else row[name] for row in points]
                axis.plot([row["tokens"] for row in points], y, linewidth=1.2, markersize=4, **style[family(codec)])
                axis.annotate(codec, (points[-1]["tokens"], y[-1]), xytext=(4, -2), textcoords="offset points", fontsize=7,
                              color=style[family(codec)]["color"])
            axis.set_xscale("log")
            axis.set_yscale(scale)
            if scale == "linear":
                axis.set_ylim(-0.03, 1.05)
            axis.set_xlabel("tokens")
            axis.set_ylabel(what)
            axis.set_title(title_of(model, outliers))
    save(figure, directory, "planted")


def main():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} DIR (where `varve eval --out DIR` left results.json)")
    directory = Path(sys.argv[1])
    rows = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    plt.rcParams.update({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "varve"})
    for part in ("quality", "tradeoff"):
        own = [row for row in rows if row["part"] == part]
        target = directory if part == "quality" else directory / part
        if own:
            target.mkdir(exist_ok=True)
            plot_kl(own, target)
            plot_retrieval(own, target)
    plot_rate(rows, directory)
    plot_planted(rows, directory)


if __name__ == "__main__":
    main()
