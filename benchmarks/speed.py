"""How long Segue takes, where the time goes and how much memory it needs: the tables of ``docs/performance.md``.

    python -m benchmarks.speed                        # measure everything, for about an hour
    python -m benchmarks.speed --only paper lengths   # measure some of it
    python -m benchmarks.speed --only --write         # measure nothing, write the page from the results so far
    python -m benchmarks.speed --quick                # does the script work? few rounds and frames

The results are kept in ``out/speed``. Nothing else should run on the machine meanwhile.
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from fractions import Fraction
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from benchmarks.real_size import random_pipe
from benchmarks.transcription import Procedure, transcribe
from segue import Interpolator
from segue.batch.manifest import read_pairs
from segue.files import read_json, write_json, write_text
from segue.film import morph
from segue.machine import best_dtype, device_of
from segue.method.diffusion import CLEAN
from segue.method.noise import Noise
from segue.method.tree import FrameKey
from segue.models import checkpoints as models
from segue.models.backbone import Sampling
from segue.models.loading import quiet
from segue.models.stable_diffusion import StableDiffusion
from segue.pictures.images import fit, load
from segue.pictures.tensors import to_tensor
from segue.pose.detect import pocket_network
from segue.run.folder import RunFolder
from segue.settings.kinds import MorphSettings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
KEYFRAMES = (ROOT / "examples" / "cat.png", ROOT / "examples" / "tiger.png")
PROMPTS = ("cat", "tiger")
PAPER, SAME, NATIVE, DEFAULT = "(a) transcription", "(b) same settings", "(b) as it comes", "(c) default"
STEPS = (7, 9, 10, 12, 14, 18, 25, 36, 54, 108)  # over the whole schedule
SOLVERS = ("dpm++", "ddim")
FILES = "pictures, latents and film compressed and written"
ALLOWED = 0.25  # of the distance between seeds
OVER_SEEDS = "distance, of that between seeds"


@dataclass(frozen=True)
class Options:
    """How to measure: where (the best device there is if not given), how often, with films of how many frames."""

    device: str | None = None
    rounds: int = 3
    num_frames: int = 17
    quick: bool = False


@dataclass(frozen=True)
class Table:
    """What was measured, as the page shows it: heads of columns, rows of cells, and a line below."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(MEASURES)
    parser.add_argument("--only", nargs="*", choices=MEASURES, default=list(MEASURES), metavar="NAME", help=names)
    parser.add_argument("--write", action="store_true", help=f"write the tables into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--quick", action="store_true", help="few rounds and frames")
    parser.add_argument("--device")
    arguments = parser.parse_args()
    if arguments.write and arguments.quick:
        parser.error("--quick measures nothing that belongs on the page; leave out --write")
    file = ROOT / "out" / "speed" / ("quick.json" if arguments.quick else "results.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    if len(arguments.only) > 1:  # each in its own process, which holds no memory of the one before
        flags = ["--quick"] * arguments.quick + (["--device", arguments.device] if arguments.device else [])
        for name in arguments.only:
            subprocess.run([sys.executable, "-m", "benchmarks.speed", "--only", name, *flags], check=True, cwd=ROOT)
    elif arguments.only:
        (name,) = arguments.only
        print(f"{name} ...", flush=True)
        options = Options(arguments.device, 1, 5, quick=True) if arguments.quick else Options(arguments.device)
        found = {"measured": describe_machine(arguments.device), **asdict(MEASURES[name](options))}
        write_json(file, {**(read_json(file) or {}), name: found})
        print(show(found), end="\n\n", flush=True)
    if arguments.write:
        page = PAGE.read_text()
        for name, found in (read_json(file) or {}).items():
            page = fill(page, name, show(found))
        write_text(PAGE, page)


# Starting.


def measure_start(options: Options) -> Table:
    """The command from outside: cold is a new process after the files of libraries and weights were forgotten."""
    rounds = []
    for _ in range(options.rounds):
        forget_files()
        cold, warm = time_command(options.num_frames), time_command(options.num_frames)
        begun = time.perf_counter()
        start_command("--help").wait()
        rounds.append((time.perf_counter() - begun, *cold, *warm))
    interpolator = Interpolator.from_pretrained()
    films = [
        time_work(partial(make_film, interpolator, options.num_frames, seed)) for seed in range(options.rounds + 1)
    ]
    seconds = [*map(statistics.median, zip(*rounds, strict=True)), statistics.median(films[1:])]
    help_, cold_first, cold_all, warm_first, warm_all, loaded = (f"{value:.2f} s" for value in seconds)
    rows = [
        ["`segue --help`", "", help_],
        ["`segue morph`, cold", cold_first, cold_all],
        ["`segue morph`, warm", warm_first, warm_all],
        ["the same film in a process that has the model loaded", "", loaded],
    ]
    return Table(["", "until the first frame", "in all"], rows)


def time_command(num_frames: int) -> tuple[float, float]:
    """The seconds of one ``segue morph`` until its first new frame is there, and until its end."""
    with tempfile.TemporaryDirectory() as folder:
        words = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
        options = ["-o", f"{folder}/film.mp4", "--num-frames", str(num_frames), *words, "--quiet"]
        begun, first = time.perf_counter(), None
        process = start_command("morph", *map(str, KEYFRAMES), *options)
        while process.poll() is None:
            time.sleep(0.01)
            if first is None and len(list(Path(folder, "film", "frames").glob("*.png"))) > len(KEYFRAMES):
                first = time.perf_counter() - begun
        end = time.perf_counter() - begun
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return first or end, end


def start_command(*arguments: str) -> subprocess.Popen[bytes]:
    """Run the command line in a new process."""
    code = "import sys; from segue.cli.app import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL)


def forget_files() -> None:
    """Ask the operating system to give back what it keeps in memory of the libraries' and the weights' files."""
    os.sync()
    for folder in (Path(sysconfig.get_paths()["purelib"]), models.pocket_folder()):
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix in (".py", ".pyc", ".so", ".safetensors", ".json", ".txt"):
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# Where the time of a film goes.


@dataclass
class Calls:
    """The calls of one part of a film: when each began and ended, and the samples (rows of a batch) in them."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    samples: int = 0

    @property
    def seconds(self) -> float:
        """The time in the calls; calls inside of others or at the same time count once."""
        total, reached = 0.0, float("-inf")
        for begin, end in sorted(self.spans):
            total += max(end - max(begin, reached), 0.0)
            reached = max(reached, end)
        return total


@contextmanager
def watch(parts: Mapping[str, Sequence[tuple[Any, str]]], device: torch.device) -> Iterator[dict[str, Calls]]:
    """Watch the methods (owner, name) of which each part consists."""
    found = {name: Calls() for name in parts}

    def wrap(function: Callable[..., Any], calls: Calls) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            begun = now(device)
            try:
                return function(*arguments, **options)
            finally:
                calls.spans.append((begun, now(device)))
                tensors = (value for value in (*arguments, *options.values()) if isinstance(value, Tensor))
                calls.samples += next(map(len, tensors), 0)

        return call

    with ExitStack() as patches:
        for name, methods in parts.items():
            for owner, method in methods:
                patches.enter_context(patch.object(owner, method, wrap(getattr(owner, method), found[name])))
        yield found


def measure_shares(options: Options) -> Table:
    """A film with the model loaded, by its parts."""
    interpolator = Interpolator.from_pretrained(device=options.device)
    pipe = pipe_of(interpolator)
    parts: dict[str, list[tuple[Any, str]]] = {
        "unet": [(pipe.unet, "forward")],
        "vae": [(pipe.vae, "encode"), (pipe.vae, "decode")],
        "text_encoder": [(pipe.text_encoder, "forward")],
        "pose": [(pocket_network(), "forward")],
        FILES: [(RunFolder, name) for name in ("save_image", "save_latents", "write", "settle")]
        + [(morph, "write_film")],
    }
    make_film(interpolator, options.num_frames)  # warm up
    rounds = []
    for seed in range(options.rounds):
        with watch(parts, pipe.device) as calls:
            seconds = time_work(partial(make_film, interpolator, options.num_frames, seed), pipe.device)
        rounds.append([seconds, *(part.seconds / seconds for part in calls.values())])
    seconds, *shares = map(statistics.median, zip(*rounds, strict=True))
    counts = [[str(len(part.spans)), str(part.samples)] for part in calls.values()]
    counts[-1] = ["", ""]
    rows = [[name, *count, f"{share:.1%}"] for name, count, share in zip(parts, counts, shares, strict=True)]
    rows.append(["everything else", "", "", f"{1 - sum(shares):.1%}"])
    return Table(["part", "calls", "samples", "share of the time"], rows, f"A film takes {seconds:.2f} s.")


# Against the paper's procedure.


def measure_paper(options: Options) -> Table:
    """The transcription and the engine, which take turns in one process, with the same weights and noise."""
    device = device_of(options.device)
    with quiet():
        plain = StableDiffusionPipeline.from_pretrained(models.pocket_folder(), dtype=torch.float32).to(device)
    plain.set_progress_bar_config(disable=True)
    same = Interpolator.from_pretrained(dtype="float32", device=options.device)
    native = Interpolator.from_pretrained(device=options.device)
    steps = 20 if options.quick else 200
    procedure = Procedure(options.num_frames, num_inference_steps=steps, guidance_scale=MorphSettings().guidance_scale)
    matching = {"solver": "ddim", "num_inference_steps": steps}
    ways: dict[str, tuple[Any, Callable[[], Tensor]]] = {
        PAPER: (plain, partial(film_by_paper, plain, procedure)),
        SAME: (pipe_of(same), partial(film_by_engine, same, procedure, **matching)),
        DEFAULT: (pipe_of(native), partial(film_by_engine, native, procedure)),
    }
    if pipe_of(native).dtype != torch.float32:
        ways[NATIVE] = (pipe_of(native), partial(film_by_engine, native, procedure, **matching))
    films, cells = {}, {}
    for name, (pipe, work) in ways.items():
        with watch({"unet": [(pipe.unet, "forward")]}, device) as calls, peak_memory(device) as memory:
            films[name] = work()
        cells[name] = [str(len(calls["unet"].spans)), str(calls["unet"].samples), *memory]
    between_seeds = distance(films[DEFAULT], film_by_engine(native, procedure, seed=1))
    turns = [{name: time_work(work, device) for name, (_, work) in ways.items()} for _ in range(options.rounds)]
    rows = []
    for name, (calls_made, samples, peak) in cells.items():
        seconds = statistics.median(turn[name] for turn in turns)
        faster = statistics.median(turn[PAPER] / turn[name] for turn in turns)
        apart = distance(films[PAPER], films[name]) / between_seeds
        rows.append([name, calls_made, samples, f"{seconds:.1f}", f"{faster:.1f}", peak, f"{apart:.3f}"])
    default = f"(c): {MorphSettings().solver}; (b) and (c) as they come: {name_of(pipe_of(native).dtype)}."
    head = ["", "calls of the UNet", "samples", "seconds", "times faster", "peak memory", OVER_SEEDS]
    return Table(head, rows, default)


def film_by_paper(pipe: Any, procedure: Procedure, size: int = 128, seed: int = 0) -> Tensor:
    """The frames between the keyframes by the transcription, (F, 3, H, W), from the noise that the engine draws."""
    shape = (int(pipe.unet.config.in_channels), size // 8, size // 8)

    def noise(frame: int) -> Tensor:
        key = FrameKey(0, Fraction(frame, procedure.num_frames - 1))
        return Noise(seed)("midpoint", key, candidate=0, shape=shape)[None]

    first, last = (to_tensor([fit(load(path), (size, size))]) for path in KEYFRAMES)
    return transcribe(pipe, (first, last), PROMPTS, "", procedure, noise)


def film_by_engine(interpolator: Interpolator, procedure: Procedure, **settings: Any) -> Tensor:
    """The same frames by the engine."""
    shared = {name: getattr(procedure, name) for name in ("num_frames", "noise", "guidance_scale")}
    return frames_between(interpolator, KEYFRAMES, PROMPTS, **{"size": 128, **shared, **settings})


def frames_between(
    interpolator: Interpolator,
    keyframes: Sequence[Path | Image.Image],
    prompts: Sequence[str],
    size: int,
    **settings: Any,
) -> Tensor:
    """The frames between two keyframes, (F, 3, H, W), without poses, alignment and detail, which the paper has not."""
    published: dict[str, Any] = {"pose": "off", "align": False, "detail": 0.0, "network_size": f"{size}x{size}"}
    with tempfile.TemporaryDirectory() as folder:
        made = interpolator(*keyframes, output=Path(folder) / "run", prompt=tuple(prompts), **{**published, **settings})
        return to_tensor(list(made.frames)[1:-1])


def distance(a: Tensor, b: Tensor) -> float:
    """How far the frames of two films are apart: the root mean square of their pixels' differences, in [0, 1]."""
    return float(((a - b) / 2).square().mean((-3, -2, -1)).sqrt().mean())


# Steps against quality, by solver.


def measure_solvers(options: Options) -> Table:
    """How far the frames of each solver are from those of DDIM at 500 steps, all from the same noise."""
    interpolator = Interpolator.from_pretrained(device=options.device)
    count, steps, reference_steps = (1, STEPS[:2], 20) if options.quick else (12, STEPS, 500)
    pairs = read_pairs(ROOT / "benchmarks" / "pairs" / "manifest.jsonl")
    film = {"num_frames": 7, "noise": (0.30, 0.55), "guidance_scale": MorphSettings().guidance_scale}

    def make(solver: str, num_inference_steps: int, seed: int = 0) -> Tensor:
        settings = {**film, "solver": solver, "num_inference_steps": num_inference_steps, "seed": seed}
        chosen = pairs[:: len(pairs) // count][:count]
        return torch.cat([frames_between(interpolator, (p.a, p.b), p.prompts or (), 128, **settings) for p in chosen])

    reference = make("ddim", reference_steps)
    seeds = distance(reference, make("ddim", reference_steps, seed=1))
    rows, near = [], []
    for number in steps:
        with watch({"unet": [(pipe_of(interpolator).unet, "forward")]}, pipe_of(interpolator).device) as calls:
            apart = {solver: distance(reference, make(solver, number)) / seeds for solver in SOLVERS}
        samples = calls["unet"].samples // len(SOLVERS) // count
        rows.append([str(number), str(samples), *(f"{value:.3f}" for value in apart.values())])
        near += [(samples, value, solver, number) for solver, value in apart.items() if value <= ALLOWED]
    answer = "The rule's answer: {2} with {3} steps.".format(*min(near)) if near else "None is near enough."
    return Table(["`num_inference_steps`", "samples for a film", *SOLVERS], rows, answer)


# Memory and time by the number of frames.


def measure_lengths(options: Options) -> Table:
    """Films of pocket at the default settings, from the shortest to the longest."""
    interpolator = Interpolator.from_pretrained(device=options.device)
    pipe = pipe_of(interpolator)
    make_film(interpolator, 5)  # warm up
    lengths, times, rows = (5, 9) if options.quick else (17, 33, 65, 129, 257), [], []
    for num_frames in lengths:
        with watch({"unet": [(pipe.unet, "forward")]}, pipe.device) as calls, peak_memory(pipe.device) as memory:
            times.append(time_work(partial(make_film, interpolator, num_frames), pipe.device))
        rows.append([str(num_frames), str(calls["unet"].samples), f"{times[-1]:.1f}", *memory])
    slope, start = np.polyfit(lengths, times, 1)
    farthest = np.abs((slope * np.array(lengths) + start) / times - 1).max()
    line = f"{slope:.3f} s a frame; at most {farthest:.1%} off a line."
    return Table(["frames", "samples", "seconds", "peak memory"], rows, line)


# A network of real size.


def measure_real_size(options: Options) -> Table:
    """One step of the engine and of a bare loop over the same UNet take turns, at Stable Diffusion 2.1's shape."""
    device, size = device_of(options.device), 128 if options.quick else 512
    dtype = best_dtype(device)
    with peak_memory(device) as loading:
        pipe = random_pipe("v2-base", dtype).to(device)
    pipe.set_progress_bar_config(disable=True)
    backbone = StableDiffusion(pipe)
    words, z = backbone.embed(["a cat"], [""]), torch.randn(1, 4, size // 8, size // 8)
    point, sampling = backbone.point(0.5), Sampling(num_inference_steps=1, guidance_scale=7.5, solver="ddim")
    if len(backbone.leg(point, CLEAN, sampling)) != 1:
        raise ValueError("more than one step would be measured")
    text, noisy = (torch.cat(two).to(device, dtype) for two in ([words.negative_text, words.text], [z, z]))

    def step_engine() -> None:
        with backbone.evaluating():
            backbone.denoise(z, words, point, CLEAN, sampling=sampling)

    def step_bare() -> None:
        with torch.no_grad():
            pipe.unet(noisy, torch.tensor(500, device=device), encoder_hidden_states=text)

    def make_three() -> None:
        frames_between(interpolator, colours, ["a cat"], size, num_frames=3, num_inference_steps=3)

    colours = [Image.new("RGB", (size, size), colour) for colour in ("navy", "orange")]
    interpolator = Interpolator(pipe, name="random weights")
    step_bare()  # warm up
    turns = [(time_work(step_bare, device), time_work(step_engine, device)) for _ in range(options.rounds)]
    bare, engine = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    with peak_memory(device) as memory:
        film = time_work(make_three, device)
    rows = [
        ["bare loop over the UNet, one step", f"{bare:.2f} s"],
        ["engine, one step", f"{engine:.2f} s"],
        ["engine / bare, median of the turns", f"{statistics.median(b / a for a, b in turns):.3f}"],
        ["film of 3 frames (`num_inference_steps=3`)", f"{film:.1f} s"],
        ["peak memory while loading, in all", ", ".join([*loading, *memory])],
    ]
    return Table([f"{size} x {size}, {name_of(dtype)}", ""], rows)


# What all of them use.


def make_film(interpolator: Interpolator, num_frames: int, seed: int = 0) -> None:
    """A film of the example pictures at the default settings, with its file."""
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"num_frames": num_frames, "seed": seed, "prompt": PROMPTS}
        interpolator(*KEYFRAMES, output=Path(folder) / "run", **options).save(Path(folder) / "film.mp4")


def pipe_of(interpolator: Interpolator) -> Any:
    """The pipe that an interpolator works with."""
    return interpolator.backbone.pipe  # type: ignore[attr-defined]


def now(device: torch.device) -> float:
    """The clock, once the accelerator has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def time_work(work: Callable[[], object], device: torch.device | None = None) -> float:
    """How long something takes, in seconds."""
    where = device or torch.device("cpu")
    begun = now(where)
    work()
    return now(where) - begun


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[str]]:
    """The largest memory while something is done: the accelerator's, or on Linux the process's; one text at the end."""
    found: list[str] = []
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif reset.exists():
        reset.write_text("5")
    yield found
    if device.type == "cuda":
        found.append(f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB")
    else:
        peak = re.findall(r"VmHWM:\s+(\d+)", status.read_text() if reset.exists() else "")
        found.append(f"{int(peak[0]) * 1024 / 1e9:.2f} GB" if peak else "")


def describe_machine(device: str | None) -> str:
    """When, with what and on what a measurement was made."""
    info = Path("/proc/cpuinfo")
    name = re.findall(r"model name\s*:\s*(.+)", info.read_text() if info.exists() else "")
    can = torch.cpu.get_capabilities()
    flags = [flag for flag in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if can.get(flag)]
    where = device_of(device)
    accelerator = [torch.cuda.get_device_name(where)] if where.type == "cuda" else []
    processor = f"{name[0] if name else platform.machine()} ({', '.join(flags) or 'no AVX2'})"
    threads = torch.get_num_threads()
    parts = [processor, f"{threads} thread{'s' * (threads > 1)}", *accelerator, f"torch {torch.__version__}"]
    return f"Measured on {date.today()} with Segue {version('segue')}, on {', '.join(parts)}."


def name_of(dtype: torch.dtype) -> str:
    """A precision's name."""
    return str(dtype).removeprefix("torch.")


def show(found: Mapping[str, Any]) -> str:
    """What the page shows of a measurement, in Markdown."""
    first, *others = (
        "|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in [found["head"], *found["rows"]]
    )
    lines = [found["measured"], "", first, "|" + "---|" * len(found["head"]), *others]
    return "\n".join([*lines, "", found["note"]] if found["note"] else lines)


def fill(page: str, name: str, text: str) -> str:
    """The page with a text between the marks <!-- NAME --> and <!-- /NAME -->."""
    marks = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    if not marks.search(page):
        raise ValueError(f"the page has no marks <!-- {name} --> and <!-- /{name} -->")
    return marks.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


MEASURES: dict[str, Callable[[Options], Table]] = {
    "paper": measure_paper,
    "solvers": measure_solvers,
    "shares": measure_shares,
    "real-size": measure_real_size,
    "start": measure_start,
    "lengths": measure_lengths,
}


if __name__ == "__main__":
    main()
