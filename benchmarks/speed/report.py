"""The tables and plots of ``docs/performance.md``, from the results in ``out/speed``.

    python -m benchmarks.speed.report

Each table goes between its marks, <!-- NAME --> and <!-- /NAME -->; what was not measured stays as it is. The plots,
for which the extra ``bench`` brings matplotlib, go to ``docs/speed``.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed.solvers import ALLOWED, choice, said
from segue.files import write_text

Results = Mapping[str, Any]
DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("out/speed"))
    parser.add_argument("--page", type=Path, default=DOCS / "performance.md")
    arguments = parser.parse_args()
    page = arguments.page.read_text()
    plots = arguments.page.parent / "speed"
    for path in sorted(arguments.results.glob("*.json")):
        results = json.loads(path.read_text())
        kind = path.stem.partition("-")[0]
        if kind not in TABLES:
            continue
        text = f"{measured_on(results)}\n\n{TABLES[kind](results)}"
        if kind in PLOTS:
            plots.mkdir(exist_ok=True)
            PLOTS[kind](results, plots / f"{path.stem}.png")
            text += f"\n\n![{PLOTS[kind].__doc__}](speed/{path.stem}.png)"
        page = filled(page, path.stem, text)
        print(f"{path.stem}: written")
    write_text(arguments.page, page)


def filled(page: str, name: str, text: str) -> str:
    """The page with a text between the marks of that name; ValueError where it has none."""
    marks = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    if not marks.search(page):
        raise ValueError(f"the page has no marks <!-- {name} --> and <!-- /{name} -->")
    return marks.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def measured_on(results: Results) -> str:
    """The machine in a line."""
    machine = results["machine"]
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    where = f"{machine['cpu']} ({', '.join(machine['instructions']) or 'no AVX2'}), {threads}"
    device = "" if machine["device"] == "cpu" else f", {machine['device']}"
    return f"Measured on {where}{device}, torch {machine['torch']}."


def against(results: Results) -> str:
    """What each way costs."""
    images = "distance_between_seeds" in results
    first = ["| | calls of the UNet | samples | seconds | times faster | peak memory | of the matrix products' speed |"]
    lines = [first[0] + (" distance, of that between seeds |" if images else "")]
    lines.append("|---|" + "---|" * (6 + images))
    for name, way in results["ways"].items():
        memory = way["memory"].get("accelerator", way["memory"].get("resident"))
        cells = [
            name,
            "" if way["calls"] is None else str(way["calls"]),
            str(way["samples"]),
            f"{way['seconds']:.1f}",
            f"{way['times_faster']:.1f}",
            "" if memory is None else f"{memory:.2f} GB",
            f"{way['share_of_matrix_speed']:.0%}",
            *([f"{way['distance_over_seeds']:.3f}"] if images else []),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    default = results["default"]
    kind = f"(c): {default['solver']}, `num_inference_steps` {default['num_inference_steps']}"
    return "\n".join([*lines, "", f"{kind}; (b) and (c) as they come: {results['dtype']}."])


def solvers(results: Results) -> str:
    """All solvers, and the choice."""
    return said(choice(results["rows"]), results["rows"])


def shares(results: Results) -> str:
    """Where the time goes."""
    rounds = results["rounds"]
    total = sorted(row["seconds"] for row in rounds)[len(rounds) // 2]
    lines = ["| part | calls | samples | share of the time |", "|---|---|---|---|"]
    for name, calls in results["networks"].items():
        share = calls["seconds"] / rounds[-1]["seconds"]
        lines.append(f"| {name} | {calls['calls']} | {calls['samples']} | {share:.1%} |")
    lines.append(f"| pictures, latents and film compressed and written | | | {results['files']:.1%} |")
    lines.append(f"| everything else | | | {results['outside'] - results['files']:.1%} |")
    reached = results["unet_share_of_matrix_speed"]
    return "\n".join(
        [*lines, "", f"A film takes {total:.2f} s; the UNet runs at {reached:.0%} of the matrix products."]
    )


def network(results: Results) -> str:
    """The UNet by the frames in a call."""
    lines = ["| frames in a call | contiguous | channels last | of the matrix products' speed |", "|---|---|---|---|"]
    for row in results["rows"]:
        plain, last = row["seconds"]["contiguous"], row["seconds"]["channels last"]
        share = max(row["share_of_matrix_speed"].values())  # of the order that is faster
        lines.append(f"| {row['frames']} | {plain:.3f} s | {last:.3f} s | {share:.0%} |")
    if compiled := results.get("compile"):
        before, after = compiled["seconds_before"], compiled["seconds_after"]
        pays = compiled["break_even_evaluations"]
        cost = f"{compiled['seconds_to_compile']:.0f} s to compile; a call {before:.3f} s, then {after:.3f} s"
        end = "never pays back" if pays is None else f"pays back after {pays:.0f} evaluations"
        lines += ["", f"Compiled blocks: {cost}; {end}."]
    return "\n".join(lines)


def lengths(results: Results) -> str:
    """What films cost by their length."""
    lines = ["| frames | evaluations | seconds | peak memory |", "|---|---|---|---|"]
    for row in results["rows"]:
        memory = row["memory"].get("resident")
        peak = "" if memory is None else f"{memory:.2f} GB"
        lines.append(f"| {row['num_frames']} | {row['evaluations']} | {row['seconds']:.1f} | {peak} |")
    line = f"{results['seconds_per_frame']:.3f} s a frame; at most {results['farthest_from_the_line']:.1%} off a line."
    return "\n".join([*lines, "", line])


def startup(results: Results) -> str:
    """The command from outside."""
    names = {"help": "`segue --help`", "morph_help": "`segue morph --help`", "cold": "`segue morph`, cold"}
    names |= {"warm": "`segue morph`, warm", "loaded": "the same film in a process that has the model loaded"}
    lines = ["| | seconds |", "|---|---|", *(f"| {text} | {results[name]:.2f} |" for name, text in names.items())]
    seen = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in results["imports"].items())
    return "\n".join([*lines, "", f"Imports, one after the other, warm: {seen}."])


def intervals(results: Results) -> str:
    """Guidance over a share of the leg."""
    lines = ["| guidance from | to | evaluations | pixels, of seeds | features, of seeds |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['start']:g} | {row['end']:g} | {row['evaluations']:.0%} | {row['pixels_over_seeds']:.3f} "
        f"| {max(row['features_over_seeds'], 0.0):.3f} |"
        for row in results["rows"]
    ]
    return "\n".join(lines)


def memory(results: Results) -> str:
    """The largest memory."""
    lines = ["| | peak |", "|---|---|"]
    if pocket := results.get("pocket"):
        lines.append(f"| pocket, `segue morph --low-memory`, resident in all | {pocket['resident']:.2f} GB |")
    if sd21 := results.get("sd21"):
        size = f"Stable Diffusion 2.1's shape, {results['size']} x {results['size']}"
        if "accelerator" in sd21:
            lines.append(f"| {size}, on the accelerator | {sd21['accelerator']:.2f} GB |")
        else:
            for name in ("unet", "vae"):
                part = sd21[name]
                lines.append(
                    f"| {size}, {name} in float32: weights, and one frame beside them | "
                    f"{part['weights_float32']:.2f} GB, {part['beside_float32']:.2f} GB |"
                )
            lines.append(
                f"| {size}, half precision on an accelerator: an estimate from these | {sd21['half']:.2f} GB |"
            )
    return "\n".join(lines)


def solvers_plot(results: Results, path: Path) -> None:
    """The distance to the reference by steps, one line for each solver."""
    rows = results["rows"]
    figure, axes = subplots(2)
    for axis, name, label in zip(axes, ("pixels", "features"), ("pixels", "CLIP features"), strict=True):
        apart = rows["other seed"][name]["value"]
        for solver in ("ddim", "euler", "dpm++"):
            found = [row for key, row in rows.items() if key.startswith(f"{solver} ")]
            found.sort(key=lambda row: row["steps_by_level"][0])
            steps = [row["steps_by_level"][0] for row in found]
            style = "--" if solver == "euler" else "-"
            axis.plot(steps, [row[name]["value"] / apart for row in found], f"o{style}", ms=3, label=solver)
        axis.axhline(ALLOWED, color="grey", lw=0.8)
        axis.set(xscale="log", yscale="log", xlabel="steps from the first level's noise point")
        axis.set(title=f"{label}: distance to DDIM at 500 steps,\nover the distance between two seeds")
        axis.set_xticks([4, 6, 10, 20, 40, 60], ["4", "6", "10", "20", "40", "60"])
        axis.minorticks_off()
        axis.legend(frameon=False)
    saved(figure, path)


def against_plot(results: Results, path: Path) -> None:
    """The seconds of each way."""
    figure, (axis,) = subplots(1)
    names = list(results["ways"])
    bars = axis.barh(names[::-1], [results["ways"][name]["seconds"] for name in names[::-1]])
    axis.bar_label(bars, [f"{results['ways'][name]['times_faster']:.1f} x" for name in names[::-1]], padding=4)
    axis.set(xlabel="seconds for a film, and times faster than (a)")
    axis.margins(x=0.25)  # room for the labels
    saved(figure, path)


def lengths_plot(results: Results, path: Path) -> None:
    """Seconds and memory by the film's length."""
    rows = results["rows"]
    figure, (left, right) = subplots(2)
    frames = [row["num_frames"] for row in rows]
    left.plot(frames, [row["seconds"] for row in rows], "o")
    slope, start = results["seconds_per_frame"], results["seconds_at_the_beginning"]
    left.plot(frames, [slope * n + start for n in frames], lw=0.8)
    left.set(xlabel="frames", ylabel="seconds")
    memory = [row["memory"].get("resident", 0.0) for row in rows]
    right.plot(frames, memory, "o-")
    right.set(xlabel="frames", ylabel="peak memory, GB", ylim=(0, 1.15 * max(memory)))
    saved(figure, path)


def subplots(count: int) -> tuple[Any, list[Any]]:
    """A figure with plots beside each other."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, count, figsize=(4.6 * count, 3.4), squeeze=False)
    return figure, list(axes[0])


def saved(figure: Any, path: Path) -> None:
    """Write a figure, without the date."""
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})


TABLES: Mapping[str, Callable[[Results], str]] = {
    "against": against,
    "solvers": solvers,
    "shares": shares,
    "network": network,
    "lengths": lengths,
    "startup": startup,
    "intervals": intervals,
    "memory": memory,
}
PLOTS: Mapping[str, Callable[[Results, Path], None]] = {
    "against": against_plot,
    "solvers": solvers_plot,
    "lengths": lengths_plot,
}


if __name__ == "__main__":
    main()
