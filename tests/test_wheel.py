"""The wheel, installed where the source tree is not in sight."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from segue import __version__
from segue.film.outputs import check_film

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_an_installed_wheel_makes_a_film(tmp_path: Path) -> None:
    def run(*command: str | Path) -> str:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(command, cwd=tmp_path, env=clean, check=True, capture_output=True, text=True).stdout

    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", ROOT, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path)
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "fresh")
    base = {"base": str(tmp_path / "fresh"), "platbase": str(tmp_path / "fresh")}
    scripts, site = (Path(sysconfig.get_path(name, "venv", vars=base)) for name in ("scripts", "purelib"))
    run(*pip, "--python", scripts / "python", "install", "--no-deps", "--no-index", next(tmp_path.glob("segue-*.whl")))
    # The dependencies are those of this environment, whose own segue a path alone does not bring.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    assert run(scripts / "segue", "--version").split() == [__version__]
    where = run(scripts / "python", "-c", "import segue; print(segue.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    pair = [ROOT / "examples" / name for name in ("fox.png", "bear.png")]
    quick = ("--num-frames", "3", "--num-inference-steps", "2", "--pose", "off", "--no-align", "--quiet")
    run(scripts / "segue", "morph", *pair, "-o", "film.mp4", *quick)
    check_film(tmp_path / "film.mp4")
