"""What ``segue doctor`` checks, as tests, of the checkpoint that SEGUE_CHECKPOINT names."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from segue.engine.doctor import Finding, examine
from segue.engine.interpolator import Interpolator
from segue.errors import hearing

CHECKPOINT = os.environ.get("SEGUE_CHECKPOINT")
pytestmark = pytest.mark.skipif(not CHECKPOINT, reason="SEGUE_CHECKPOINT names no checkpoint")
ALIGNED_FINELY = True


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("doctor") / "sheet.png"


@pytest.fixture(scope="module")
def findings(sheet: Path) -> Iterator[dict[str, Finding]]:
    with hearing():
        yield {found.check: found for found in examine(Interpolator.from_pretrained(CHECKPOINT), sheet=sheet)}


@pytest.mark.parametrize("check", ["weights", "autoencoder", "network", "pipeline", "film"])
def test_a_check_finds_nothing_wrong(findings: dict[str, Finding], check: str) -> None:
    assert check in findings, f"not reached: {list(findings.values())[-1].problem}"
    assert findings[check].problem == "", findings[check].text


def test_the_contact_sheet_is_written(findings: dict[str, Finding], sheet: Path) -> None:
    assert "film" in findings
    with Image.open(sheet) as image:
        assert min(image.size) > 64
