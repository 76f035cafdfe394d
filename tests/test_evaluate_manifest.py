"""Manifests: what is right is read whole, and everything that is wrong is said at once, line by line."""

import json
from pathlib import Path

import pytest
from PIL import Image
from test_stills import write

from segue.batch.manifest import read_pairs
from segue.errors import SegueError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in (("cat", (32, 24)), ("dog", (32, 24)), ("wide", (48, 24)), ("fox", (32, 24))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    person = {"pose_keypoints_2d": [4.0, 5.0, 1.0] * 18}
    (tmp_path / "pose.json").write_text(json.dumps({"people": [person]}))  # of its picture's size
    (tmp_path / "no-pose.json").write_text("{}")
    (tmp_path / "broken.png").write_bytes(b"no image")
    return tmp_path


def lines(folder: Path, *rows: object) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(SegueError) as caught:
        read_pairs(path)
    head, *rest = str(caught.value).split("\n")
    assert head.startswith(f"{path} has {len(rest)} fault")
    return [line.strip() for line in rest]


def test_json_lines(folder: Path) -> None:
    pose = {"pose_a": "pose.json", "pose_b": "pose.json"}
    path = lines(
        folder,
        {"name": "one", "group": "g", "a": "cat.png", "b": "dog.png", "prompt": "a pet", "negative_prompt": "blur"},
        "",
        {"a": "cat.png", "b": str(folder / "fox.png"), "prompt_a": "a cat", "prompt_b": "a fox", **pose},
        {"name": "bare", "a": "fox.png", "b": "fox.png"},
    )
    one, two, bare = read_pairs(path)
    assert (one.name, one.group, one.prompts, one.negative_prompt) == ("one", "g", ("a pet", "a pet"), "blur")
    assert one.a == folder / "cat.png"
    assert (two.name, two.prompts, two.b) == ("cat-fox", ("a cat", "a fox"), folder / "fox.png")
    assert two.pose_a == two.pose_b == folder / "pose.json"
    assert bare.prompts is None


def test_csv(folder: Path) -> None:
    path = folder / "pairs.csv"
    path.write_text('\ufeffname,a,b,prompt\none,cat.png,dog.png,"a pet, sitting"\ntwo,cat.png,fox.png,\n')
    one, two = read_pairs(path)
    assert one.prompts == ("a pet, sitting",) * 2
    assert two.prompts is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_text_as_editors_and_spreadsheets_save_it(folder: Path, encoding: str, ending: str) -> None:
    rows = {
        ".jsonl": '{"name": "x", "a": "cat.png", "b": "dog.png", "prompt": "é 日"}\r\n',
        ".csv": "name,a,b,prompt\r\nx,cat.png,dog.png,é 日\r\n",
    }
    (folder / f"pairs{ending}").write_bytes(rows[ending].encode(encoding))
    (pair,) = read_pairs(folder / f"pairs{ending}")
    assert (pair.name, pair.a, pair.prompt) == ("x", folder / "cat.png", "é 日")


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("hint", [False, True])
def test_tables_with_other_separators(folder: Path, name: str, separator: str, hint: bool) -> None:
    lines = [["name", "a", "b", "prompt"], ["x", "cat.png", "dog.png", '"a, pet; sitting"']]
    text = (f"sep={separator}\r\n" if hint else "") + "".join(f"{separator.join(line)}\r\n" for line in lines)
    (folder / name).write_text(text, newline="")
    (pair,) = read_pairs(folder / name)
    assert (pair.name, pair.b, pair.prompt) == ("x", folder / "dog.png", "a, pet; sitting")
    assert pair.place == f"line {3 if hint else 2}"


@pytest.mark.parametrize("name", ["bom.jsonl", "semi.csv", "u16.jsonl"])
def test_manifests_that_users_brought(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    for file in ("plain.png", "grey_plain.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / "in" / file)
    (tmp_path / name).write_bytes((Path(__file__).parent / "data" / "cases" / "manifests" / name).read_bytes())
    (pair,) = read_pairs(tmp_path / name)
    assert (pair.name, pair.a, pair.b) == ("x", tmp_path / "in" / "plain.png", tmp_path / "in" / "grey_plain.png")


def test_frames_of_videos(folder: Path) -> None:
    write(folder / "clip.mp4", size=(32, 24))
    first, last = folder / "clip.mp4@first", folder / "clip.mp4@last"
    (pair,) = read_pairs(lines(folder, {"name": "x", "a": "clip.mp4@first", "b": "clip.mp4@last"}))
    assert (pair.a, pair.b) == (first, last)
    assert faults(lines(folder, {"name": "x", "a": "gone.mp4@first", "b": "cat.png"})) == [
        f"line 1: there is no file {folder}/gone.mp4@first"
    ]


def test_folder(tmp_path: Path) -> None:
    for name in ("x-a.png", "x-b.jpg", "two-words-a.png", "two-words-b.png", "notes.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert [pair.name for pair in read_pairs(tmp_path)] == ["two-words", "x"]
    Image.new("RGB", (8, 8)).save(tmp_path / "alone-b.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "x-a.jpg")
    assert faults(tmp_path) == ["x-a.png: x-a.jpg is the same image", "alone-b.png: there is no alone-a beside it"]


def test_every_fault_with_its_line(folder: Path) -> None:
    path = lines(
        folder,
        {"name": "one", "a": "cat.png", "b": "dog.png"},
        '{"name": "two", "a": ',
        {"name": "three", "a": "cat.png", "b": "bird.png"},
        {"name": "one", "a": "cat.png", "b": "fox.png"},
        {"name": "four", "a": "cat.png", "b": "dog.png", "promt": "x"},
        {"name": "five", "a": "cat.png", "b": "wide.png"},
        {"name": "six", "b": "cat.png"},
        {"name": "../seven", "a": "cat.png", "b": "dog.png"},
        {"name": "eight", "a": "cat.png", "b": "broken.png"},
        {"name": "nine", "a": "cat.png", "b": "dog.png", "prompt_a": "x"},
        {"name": "ten", "a": "cat.png", "b": "dog.png", "prompt": "x", "prompt_a": "y", "prompt_b": "z"},
        {"name": "eleven", "a": "cat.png", "b": "dog.png", "pose_b": "pose.json"},
        {"name": "twelve", "a": 3, "b": "dog.png"},
        "[1, 2]",
        {"name": "thirteen", "a": "cat.png", "b": "dog.png", "pose_a": "pose.json", "pose_b": "no-pose.json"},
    )
    found = faults(path)
    expected = [
        ("line 2", "broken JSON at column"),
        ("line 3", f"no file {folder / 'bird.png'}"),
        ("line 4", "'one' is taken by line 1"),
        ("line 5", "unknown column 'promt'"),
        ("line 6", "a is 32 x 24 pixels, b is 48 x 24"),
        ("line 7", "no column 'a'"),
        ("line 8", "'../seven'"),
        ("line 9", "broken.png is not a picture that can be read"),
        ("line 10", "prompt_a and prompt_b go together"),
        ("line 11", "prompt is for both"),
        ("line 12", "pose_a and pose_b go together"),
        ("line 13", "a: "),
        ("line 14", "not an object"),
        ("line 15", "no-pose.json is not an OpenPose file"),
    ]
    assert len(found) == len(expected)
    for fault, (place, text) in zip(sorted(found, key=lambda f: int(f.split(":")[0][5:])), expected, strict=True):
        assert fault.startswith(f"{place}: ")
        assert text in fault


def test_what_shows_only_on_a_closer_look(folder: Path) -> None:
    rough = Image.effect_noise((256, 256), 90)
    rough.save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-2000])
    for name in ("x" * 80, "y" * 80):
        Image.new("RGB", (32, 24)).save(folder / f"{name}.png")
    path = lines(
        folder,
        {"name": "cut", "a": "cut.jpg", "b": "cut.jpg"},
        {"a": f"{'x' * 80}.png", "b": f"{'y' * 80}.png"},
        '{"a": "cat.png", "b": "dog.png", "a": "fox.png"}',
    )
    found = faults(path)
    assert found[0] == found[1]
    assert found[0].startswith(f"line 1: {folder / 'cut.jpg'} is damaged: ")
    assert found[2].endswith("is longer than 100 characters; give one")
    assert found[3] == "line 3: column 'a' appears twice"
    with pytest.raises(SegueError, match="2 faults"):  # a batch sees when it comes to it
        read_pairs(path, one_size=False)


def test_wrong_columns_of_a_table(folder: Path) -> None:
    path = folder / "pairs.csv"
    path.write_text("name,first,b,b\none,cat.png,dog.png,x\n")
    (fault,) = faults(path)
    assert fault.startswith("line 1: unknown column 'first', no column 'a', column 'b' twice")
    path.write_text("name,a,b\none,cat.png\ntwo,cat.png,dog.png\n")
    assert faults(path) == ["line 2: 2 cells under 3 columns"]


def test_turned_photographs_have_the_size_they_are_shown_at(folder: Path) -> None:
    turned = Image.new("RGB", (24, 32))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    assert len(read_pairs(lines(folder, {"a": "cat.png", "b": "turned.jpg"}))) == 1


def test_what_is_no_manifest(folder: Path, tmp_path: Path) -> None:
    for path, text in (
        (folder / "none.jsonl", "cannot be read"),
        (folder / "cat.png", "it is neither UTF-8 nor UTF-16 text"),
        (lines(folder), "has no pairs"),
    ):
        with pytest.raises(SegueError, match=text):
            read_pairs(path)
    other = folder / "pairs.txt"
    other.write_text("x")
    with pytest.raises(SegueError, match=r"a manifest is a \.jsonl, \.csv or \.tsv file"):
        read_pairs(other)


def test_many_faults_are_counted(folder: Path) -> None:
    with pytest.raises(SegueError, match="80 faults") as caught:
        read_pairs(lines(folder, *["{"] * 80))
    assert str(caught.value).endswith("and 30 more")
