"""Rows on Ray: the same films, whoever dies. Left out where Ray is not installed."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from test_batch import frames, rows_of
from tiny import tiny_pipe

from segue.batch.drive import Status, drive
from segue.batch.work import make_row
from segue.engine.interpolator import Interpolator
from segue.settings.kinds import ModelSettings

pytest.importorskip("ray", reason="the extra cluster is not installed")


@pytest.mark.filterwarnings("ignore")
def test_a_row_on_ray_equals_that_of_a_single_run_and_survives_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segue.batch.cluster import LOCAL, ActorPool

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as many threads as here
    tiny_pipe().save_pretrained(tmp_path / "model")
    model = ModelSettings(model=str(tmp_path / "model"), dtype="float32", device="cpu")
    rows = rows_of(tmp_path, 2)
    (tmp_path / "out").mkdir()
    killed: list[int] = []

    def kill_once(status: Status) -> None:
        if status.event == "start" and not killed:
            killed.extend(pool.pids)
            os.kill(killed[0], signal.SIGKILL)

    pool = ActorPool(model, 1, LOCAL, len(rows), tmp_path / "out")
    try:
        outcomes = drive(rows, [], pool, callback=kill_once)
    finally:
        pool.close()
    assert killed
    assert [(o.name, o.state) for o in outcomes] == [(row.name, "made") for row in rows]
    assert sum(o.attempts for o in outcomes) == 3
    interpolator = Interpolator.from_pretrained(tmp_path / "model", dtype="float32", device="cpu")
    for row in rows:
        make_row(interpolator, replace(row, folder=tmp_path / f"single-{row.name}", film=None))
        assert frames(row.folder) == frames(tmp_path / f"single-{row.name}")
