"""Calibration data as the tools read it: raw files for family B, .npy for family H, all of it into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fakes.say import Log, Refused
from tests.fakes.schema import names, one_of
from tests.fakes.world import absolute

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

PICTURES = {".jpg", ".jpeg", ".png", ".bmp"}


@dataclass
class Samples:
    """The folder of one input; ``dtype`` is how its bytes are read."""

    name: str
    shape: list[int]
    folder: Path
    dtype: str
    pictures: bool = False


def sample_dirs(given: str | None, inputs: int) -> list[Path]:
    """Return one folder for each input, each with something in it."""
    listed = names(given)
    if len(listed) != inputs:
        raise Refused("Wrong cal_data_dir num received.")
    dirs = [absolute(d) for d in listed]
    for folder in dirs:
        if not folder.is_dir():
            raise Refused(f"The specified cal_data_dir {folder} does not exist")
        if not any(folder.iterdir()):
            raise Refused(f"Directory {folder} is empty, please check calibration pics.")
    return dirs


def data_types(given: str | None, dirs: Sequence[Path], log: Log) -> list[str]:
    """Return the type of each folder's files: the parameter's, else by the suffix of the folder's name."""
    by_name = ["float32" if d.name.endswith("_f32") else "uint8" for d in dirs]
    listed = names(given)
    if not listed:
        return by_name
    if len(listed) == 1:
        listed = listed * len(dirs)
    if len(listed) != len(dirs):
        raise Refused(
            f"Wrong cal_data_type num received. Num of cal_data_type given: {len(listed)} "
            f"is not equal to input num {len(dirs)}"
        )
    for value, suffix in zip(listed, by_name, strict=True):
        one_of(value, ["uint8", "float32"], "cal_data_type")
        if value != suffix:
            log.at("mapper_conf_parser", 1007).warning(
                f"The calibration dir name suffix is not the same as the value {value} "
                "of the parameter cal_data_type, the parameter setting will prevail"
            )
    return listed


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _first(path: Path, log: Log, shown: str) -> None:
    md5 = hashlib.md5(path.read_bytes() if path.is_file() else b"", usedforsecurity=False).hexdigest()
    log.at("loader", 204).info("*" * 43)
    log.info(f"First calibration picture name: {shown}")
    log.info(f"First calibration picture md5: {md5}")
    log.info("*" * 43)


def load_npy(every: Sequence[Samples], log: Log) -> dict[str, list[Array]]:
    """Read family H's folders whole: .npy files with the shape of the input, uint8 or float32."""
    import numpy as np

    data: dict[str, list[Array]] = {}
    for samples in every:
        log.at("ptq_model_builder", 119).info(f"Processing calibration set data for input[{samples.name}]")
        files = _files(samples.folder)
        _first(files[0], log, str(files[0]))
        log.at("loader", 295).info(f"Create the RawImageDirLoader of shape '{samples.shape}'")
        data[samples.name] = [_npy(f, samples, log) for f in files]
        some = data[samples.name]
        log.at("tool_utils", 373).info(f"The num of calibration data: {len(some)}")
        log.at("tool_utils", 374).info(f"The calibration data shape: {np.shape(some[0])}")
        log.at("ptq_model_builder", 122).info(f"Finished. data num: {len(some)}")
    if len({len(d) for d in data.values()}) > 1:
        raise Refused(f"The number of calibration files of the inputs is not equal: {[len(d) for d in data.values()]}")
    return data


def _npy(path: Path, samples: Samples, log: Log) -> Array:
    import numpy as np

    log.at("loader", 300).info(f"Read raw file: {path}")
    try:
        found: Any = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as problem:
        raise Refused(f"The file {path} load failed, {problem}") from problem
    if found.dtype.name not in ("uint8", "float32"):
        raise Refused(f"The data type {found.dtype.name} is invalid!")
    if list(found.shape) not in (samples.shape, samples.shape[1:]):
        raise Refused(
            f"Input data shape does not match model input shape. {path.name}: {list(found.shape)}, "
            f"input {samples.name}: {samples.shape}"
        )
    made: Array = found.reshape(samples.shape)
    return made
