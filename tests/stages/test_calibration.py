"""Bad calibration images: each gives an error with the name of its file, or a warning."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bpudeploy.backends.samples import CalibrationFinding, ImageDefect, Samples, read_findings
from bpudeploy.cli.main import main
from bpudeploy.errors import StageError
from bpudeploy.events import Event, Note
from bpudeploy.spec.recipe import CalibrationSpec
from bpudeploy.stage import Kind, StepContext
from bpudeploy.stages.decode import decode
from bpudeploy.stages.fetch_data import DatasetOptions, Origin, fetch_dataset
from bpudeploy.stages.samples import SamplesOptions, Subset, make_samples
from tests.stages.test_fetch import PREPROCESS, artifact, picture, spec, tree

SIZE = (8, 8)
GREY = np.add.outer(np.arange(40) * 3, np.arange(50) * 2).astype(np.uint8)
GOOD = {f"good{i}.png": picture(i) for i in range(8)}


def encoded(pixels: np.ndarray[Any, Any] | Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(out, form, **options)
    return out.getvalue()


def fetched(
    folder: Path,
    origin: Origin,
    archives: tuple[Path, ...] = (),
    count: int | None = None,
    evaluation: dict[str, bytes] | None = None,
) -> list[Event]:
    """Draw all of ``origin`` for calibration, next to an evaluation set, into ``folder``/dataset.zip."""
    events: list[Event] = []
    labelled = tree(folder / "e", evaluation or {f"a/{i}.png": picture(100 + i) for i in range(2)})
    options = DatasetOptions(spec(None), labelled, CalibrationSpec(source="c", count=count), origin)
    fetch_dataset(StepContext(folder, events.append), options, tuple(artifact(Kind.ARCHIVE, a) for a in archives))
    return events


def sampled(
    folder: Path, size: tuple[int, int] = SIZE, mode: str = "center", subset: Subset = Subset.CALIBRATION
) -> Any:
    """Return the SAMPLES file made from ``folder``/dataset.zip, and the notes."""
    events: list[Event] = []
    (folder / "p.json").write_text(json.dumps(PREPROCESS | {"size": size, "crop_mode": mode}))
    inputs = (artifact(Kind.DATASET, folder / "dataset.zip"), artifact(Kind.PREPROCESS, folder / "p.json"))
    (path,) = make_samples(StepContext(folder, events.append), SamplesOptions(subset), inputs)
    return path, [e.text for e in events if isinstance(e, Note)]


def found(folder: Path, files: dict[str, bytes]) -> tuple[CalibrationFinding, ...]:
    fetched(folder, tree(folder / "c", files))
    return read_findings(sampled(folder)[0])


# --- unusable images


JPEG, PNG = encoded(np.stack([GREY] * 3, axis=2), "JPEG"), picture(1)
HOLED, ENDLESS = GREY.astype(np.float32), GREY.astype(np.float32)
HOLED[3, 3], ENDLESS[3, 3] = np.nan, np.inf


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("text.png", b"not a picture", "not an image"),
        ("empty.jpg", b"", "it is empty"),
        ("cut.jpg", JPEG[:-60], "truncated"),
        ("cut.png", PNG[: len(PNG) // 2], "truncated"),
        ("damaged.png", PNG[:45] + b"\0\0" + PNG[47:], "broken"),
        ("damaged.ppm", b"P6\n9 x\n255\n", "invalid literal"),
        ("nan.tif", encoded(HOLED, "TIFF"), "NaN or infinite"),
        ("inf.tif", encoded(ENDLESS, "TIFF"), "NaN or infinite"),
        ("unit.tif", encoded(GREY.astype(np.float32) / 255, "TIFF"), "from 0 to 0.84.* expected 0 to 255"),
        ("below.tif", encoded(GREY.astype(np.float32) - 20, "TIFF"), "from -20 to 195"),
        ("wide.tif", encoded(GREY.astype(np.int32) * 1000, "TIFF"), "from 0 to 215000"),
    ],
)
@pytest.mark.parametrize("subset", Subset)
def test_an_undecodable_image_is_named_with_a_hint(
    tmp_path: Path, name: str, data: bytes, reason: str, subset: Subset
) -> None:
    bad, good = {f"a/{name}": data}, {f"a/{file}": one for file, one in GOOD.items()}
    calibration, evaluation = (bad, good) if subset is Subset.CALIBRATION else (good, bad)
    fetched(tmp_path, tree(tmp_path / "c", calibration), evaluation=evaluation)
    with pytest.raises(StageError, match=f"cannot decode {subset} image a/{name}: .*{reason}") as caught:
        sampled(tmp_path, subset=subset)
    assert "8 bits per channel" in str(caught.value.hint)


def test_an_image_that_would_exhaust_memory_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 30_000, 3), dtype=np.uint8)
    fetched(tmp_path, tree(tmp_path / "c", {"line.png": encoded(noise, "PNG")}))
    with pytest.raises(StageError, match=r"cannot use line.png: 30000x1 pixels.*224x224, would be 1,858 million"):
        sampled(tmp_path, (224, 224))
    assert Samples.read(sampled(tmp_path, (224, 224), "squash")[0]).pixels.std() > 0, "squash does not enlarge"


def link_to_nothing(folder: Path) -> Origin:
    origin = tree(folder, GOOD)
    (folder / "bad.png").symlink_to("nowhere")
    return origin


def unreadable(folder: Path) -> Origin:
    origin = tree(folder, GOOD)
    (folder / "bad.png").symlink_to("/proc/self/mem")  # cannot be read even by root, who ignores permissions
    return origin


@pytest.mark.parametrize(("make", "reason"), [(link_to_nothing, "No such file"), (unreadable, "Input/output error")])
def test_an_unreadable_file_is_named(tmp_path: Path, make: Callable[[Path], Origin], reason: str) -> None:
    with pytest.raises(StageError, match=f"cannot read bad.png: {reason}") as caught:
        fetched(tmp_path, make(tmp_path / "c"))
    assert "permission" in str(caught.value.hint)


def test_a_damaged_archive_is_an_error_with_a_hint(tmp_path: Path) -> None:
    tree(tmp_path / "c", GOOD)
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as z:
        z.writestr("bad.png", PNG)
    data = bytearray((tmp_path / "c.zip").read_bytes())
    data[60] ^= 255
    (tmp_path / "c.zip").write_bytes(data)
    with pytest.raises(StageError, match=r"cannot read bad.png: Bad CRC-32") as caught:
        fetched(tmp_path, Origin(None, None), (tmp_path / "c.zip",))
    assert "create the archive again" in str(caught.value.hint)
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as t:
        t.add(tmp_path / "c", ".")
    whole = (tmp_path / "c.tar.gz").read_bytes()
    (tmp_path / "c.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StageError, match="cannot read the archive"):
        fetched(tmp_path, Origin(None, None), (tmp_path / "c.tar.gz",))


@pytest.mark.parametrize("files", [{}, {"notes.txt": b"x"}], ids=["empty", "no image"])
def test_a_source_without_images_is_an_error(tmp_path: Path, files: dict[str, bytes]) -> None:
    (tmp_path / "c").mkdir()
    with pytest.raises(StageError, match="the source of the calibration set contains no images") as caught:
        fetched(tmp_path, tree(tmp_path / "c", files))
    assert ".jpg" in str(caught.value.hint)


def test_duplicates_are_skipped_and_reported(tmp_path: Path) -> None:
    copies = tree(tmp_path / "c", {f"{i}.png": picture(0) for i in range(4)})
    with pytest.raises(StageError, match=r"calibration needs 2 images, 1 are available: .* 3 are duplicates") as caught:
        fetched(tmp_path, copies, count=2)
    assert "calibration.count" in str(caught.value.hint)
    notes = [e.text for e in fetched(tmp_path, copies) if isinstance(e, Note)]
    assert "calibration: 3 duplicate files skipped" in notes


def test_no_images_left_after_evaluation_suggests_a_lower_count(tmp_path: Path) -> None:
    origin = tree(tmp_path / "t", {f"a/{i}.png": picture(i) for i in range(4)})
    with pytest.raises(StageError, match="calibration needs 64 images, 0 are available") as caught:
        fetch_dataset(StepContext(tmp_path, lambda _: None), DatasetOptions(spec(None), origin, CalibrationSpec()), ())
    assert "dataset.evaluation.count" in str(caught.value.hint)


# --- decoding


FORMS = {
    "palette.png": encoded(Image.fromarray(GREY).convert("P"), "PNG"),
    "alpha.png": encoded(np.dstack([GREY] * 3 + [np.full_like(GREY, 255)]), "PNG"),
    "grey alpha.png": encoded(Image.fromarray(GREY).convert("LA"), "PNG"),
    "sixteen.png": encoded(GREY.astype(np.uint16) * 257, "PNG"),
    "sixteen.tif": encoded(GREY.astype(np.uint16) * 257, "TIFF"),
    "big-endian.tif": encoded((GREY.astype(np.uint16) * 257).astype(">u2"), "TIFF"),
    "float.tif": encoded(GREY.astype(np.float32), "TIFF"),
    "integer.tif": encoded(GREY.astype(np.int32), "TIFF"),
    "sixteen.ppm": b"P5\n50 40\n65535\n" + (GREY.astype(np.uint16) * 257).astype(">u2").tobytes(),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_mode_of_an_image_gives_the_same_pixels(tmp_path: Path, name: str) -> None:
    plain = encoded(np.stack([GREY] * 3, axis=2), "PNG")
    findings = found(tmp_path, {"plain.png": plain, name: FORMS[name]})
    pixels = Samples.read(tmp_path / "samples.safetensors").pixels
    assert (pixels[0] == pixels[1]).all() and pixels.std() > 20
    assert {f.flaw for f in findings} == {ImageDefect.FEW, ImageDefect.REPEATED}


def test_sixteen_bits_are_rounded_to_eight() -> None:
    values = np.random.default_rng(2).integers(0, 1 << 16, (30, 40), dtype=np.uint16)
    levels = np.asarray(decode("x", encoded(values, "PNG")).image)[:, :, 0]
    assert (levels == np.rint(values / 257)).all()


# --- findings


def flat(colour: int, width: int = 12) -> bytes:
    return encoded(np.full((9, width, 3), colour, np.uint8), "PNG")


def noise(height: int, width: int, form: str = "PNG", **options: Any) -> bytes:
    pixels = np.random.default_rng(9).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(pixels, form, **options)


FRAMES = [Image.fromarray(np.full((9, 12, 3), i, np.uint8)) for i in (9, 99)]
CLEAR = np.random.default_rng(4).integers(0, 255, (9, 12, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "data", "flaw"),
    [
        ("black.png", flat(0), ImageDefect.FLAT),
        ("small.png", noise(7, 12), ImageDefect.SMALL),
        ("long.png", noise(10, 41), ImageDefect.LONG),
        ("high.png", noise(41, 10), ImageDefect.LONG),
        ("moving.webp", noise(9, 12, "WEBP", save_all=True, append_images=FRAMES), ImageDefect.FRAMES),
        ("pages.tif", noise(9, 12, "TIFF", save_all=True, append_images=FRAMES), ImageDefect.FRAMES),
        ("clear.png", encoded(CLEAR, "PNG"), ImageDefect.TRANSPARENT),
        (
            "clear palette.png",
            encoded(Image.fromarray(GREY).quantize(16), "PNG", transparency=0),
            ImageDefect.TRANSPARENT,
        ),
        ("ink.jpg", encoded(Image.fromarray(GREY).convert("CMYK"), "JPEG"), ImageDefect.CMYK),
        ("twelve.png", encoded(GREY.astype(np.uint16) * 16, "PNG"), ImageDefect.SHALLOW),
        ("good3 again.png", encoded(Image.open(io.BytesIO(picture(3))), "BMP"), ImageDefect.REPEATED),
    ],
)
def test_a_flaw_is_found_in_its_file_alone(tmp_path: Path, name: str, data: bytes, flaw: ImageDefect) -> None:
    (one,) = found(tmp_path, GOOD | {name: data})
    pair = {name, "good3.png"} if flaw is ImageDefect.REPEATED else {name}  # either of two is the second, by the draw
    assert one.flaw is flaw and len(one.files) == 1 and set(one.files) <= pair
    assert str(one).startswith(f"{one.files[0]}: ") and one.why in str(one)


@pytest.mark.parametrize(
    "data",
    [noise(8, 8), noise(10, 39), noise(9, 12, "MPO", save_all=True, append_images=FRAMES)],
    ids=["as large", "nearly long", "a phone's"],
)
def test_good_images_have_no_findings(tmp_path: Path, data: bytes) -> None:
    assert found(tmp_path, GOOD | {"fine.jpg": data}) == ()


@pytest.mark.parametrize(("count", "few"), [(1, True), (7, True), (8, False)])
def test_fewer_than_eight_images_are_few(tmp_path: Path, count: int, few: bool) -> None:
    findings = found(tmp_path, {f"{i}.png": picture(i) for i in range(count)})
    assert [f.flaw for f in findings] == [ImageDefect.FEW] * few
    assert all(f"only {'one image' if count == 1 else f'{count} images'}" in str(f) for f in findings)


def test_a_flaw_of_all_images_is_reported_for_the_set(tmp_path: Path) -> None:
    findings = found(tmp_path, {f"{i}.png": flat(0, 12 + i) for i in range(10)})
    assert [(f.flaw, len(f.files)) for f in findings] == [(ImageDefect.REPEATED, 9), (ImageDefect.FLAT, 0)]
    assert " and 6 more: the same pixels" in str(findings[0])
    assert str(findings[1]).startswith("calibration set: every image is one colour")


def test_findings_are_warnings_for_calibration_only(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, GOOD | {"black.png": flat(0)})
    path, notes = sampled(tmp_path)
    assert notes == [f"warning: {finding}"] and len(Samples.read(path)) == 9
    path, notes = sampled(tmp_path, subset=Subset.EVALUATION)
    assert notes == [] and read_findings(path) == () and len(Samples.read(path)) == 2


def test_warnings_are_in_summary_and_report_even_for_stored_steps(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    black = tmp_path / "black"
    tree(black, {f"{i}.png": flat(0, 70 + i) for i in range(3)})
    argv = ["run", str(tiny), "--set", f"calibration.source={black}", "--set", "calibration.count=null"]
    expected = {"only 3 images", "the same pixels", "every image is one colour", "every image is smaller"}
    assert main([*argv, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert all(any(text in warning for warning in summary["warnings"]) for text in expected)
    page = (tmp_path / summary["run_directory"] / "report.html").read_text()
    assert all(text in page for text in expected)
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert re.search("fetch/calibration +stored", out), (
        "a stage that does not run emits nothing: the summary has the warnings"
    )
    assert [line for line in out.splitlines() if "warning: " in line] == [
        f"  warning: {w}" for w in summary["warnings"]
    ]
