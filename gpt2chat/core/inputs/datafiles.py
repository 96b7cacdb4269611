"""Find data files, assign them to splits, and open them, compressed or not."""

import bz2
import glob
import gzip
import io
import lzma
import os
import re
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

from gpt2chat.core.errors import DataError

Split = Literal["train", "validation"]
Files = dict[Split, tuple[Path, ...]]


@dataclass(frozen=True, slots=True)
class Input:
    """A file, or a data set on the Hub, that was read."""

    source: str
    name: str
    """Name of the file, or of the data set on the Hub."""
    sha256: str
    """Hash of a file; empty for a data set on the Hub."""
    revision: str
    """Commit of a data set on the Hub; empty for a file."""


# `.json` is one JSON text in some data sets and JSON Lines in others: the content decides.
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
SUFFIXES = (
    *(suffix + packed for suffix in JSON_SUFFIXES for packed in ("", *COMPRESSED)),
    ".parquet",
)
METADATA = ("dataset_info.json", "dataset_infos.json", "state.json", "manifest.json")
"""Files next to data files that do not contain records."""
OWN_SETTINGS = ("chat", "preference", "feedback")
"""Settings for the user's own data, as opposed to the public data sets."""
OUTPUT_MARKS = {"manifest.json", "run.toml", "config.json"}
"""Files of which every data folder, run and model folder has one. Such a folder is not read."""

# A word of its own: `latest.jsonl` is not a test file.
_SPLIT_WORD = re.compile(r"(?:^|[^a-z])(train|validation|valid|val|dev|eval|test)(?:[^a-z]|$)")


def find_files(setting: str, value: str) -> Files:
    """Return the data files of a path, a folder or a glob, by split.

    `train`, `validation` (valid, val, dev, eval) or `test` in a file's name decides the split; the
    default is train. Test files are used for validation if there are no validation files, and
    are left out otherwise.

    Raises:
        DataError: There is no such file, or its format is unknown.
    """
    path = Path(value).expanduser()
    if path.is_dir():
        return _by_split({file: _name(file, path) for file in _folder_files(setting, path)})
    if path.is_file():
        _require_known(setting, path)
        return _by_split({path: path.name})
    if not any(sign in value for sign in "*?["):
        raise DataError(
            f"`{setting}` {value}: there is no such file. "
            "Give a file, a folder or a glob that exists.",
            setting=setting,
        )
    # The file system's order must not become the order of the rows.
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    # With `**`, a glob matches folders too.
    files = [file for file in matches if file.is_file()]
    if not files:
        raise DataError(
            f"`{setting}` {value}: no file matches. Give a file, a folder or another glob."
        )
    for file in files:
        _require_known(setting, file)
    return _by_split({file: file.name for file in files})


def _name(file: Path, folder: Path) -> str:
    # Folders below may name a split, as in `validation/0.parquet`; those above do so by chance.
    return file.relative_to(folder).as_posix()


def _folder_files(setting: str, folder: Path) -> list[Path]:
    """Return all data files in a folder and below, sorted by name.

    Hidden files and folders are skipped. So is the output of this program (data folders, runs and
    models), so that a user can give the folder that also contains it.
    """
    files: list[Path] = []
    errors: list[OSError] = []
    # Unlike glob, os.walk reports a folder that cannot be read.
    for root, folders, names in os.walk(folder, onerror=errors.append):
        # The user named the folder itself, so it is read whatever it contains.
        if Path(root) != folder and OUTPUT_MARKS & set(names):
            folders.clear()  # os.walk goes into what is left in this list.
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(root, name)
            for name in names
            if name.endswith(SUFFIXES) and name not in METADATA and not name.startswith(".")
        ]
    if errors:
        error = errors[0]
        raise DataError(
            f"`{setting}` {folder}: cannot read {error.filename}: {error.strerror}. "
            "Make it readable, or give the files one by one.",
            setting=setting,
        ) from error
    if setting not in OWN_SETTINGS:
        # A copy of a Hub repository: its data/ is the data set, its other files are extras.
        files = [file for file in files if _name(file, folder).startswith("data/")] or files
    if not files:
        raise DataError(
            f"`{setting}` {folder}: no data file in it. Give a folder with .jsonl, .json or "
            ".parquet files.",
            setting=setting,
        )
    return sorted(files, key=lambda file: _name(file, folder))


def _require_known(setting: str, file: Path) -> None:
    if not file.name.endswith(SUFFIXES):
        raise DataError(
            f"`{setting}` {file}: unknown file format. "
            "Give .jsonl, .json (also compressed: .gz, .bz2, .xz, .zst) or .parquet."
        )


def _by_split(names: dict[Path, str]) -> Files:
    words = {file: _SPLIT_WORD.search(name.lower()) for file, name in names.items()}
    splits = {file: word[1] if word else "train" for file, word in words.items()}
    train = tuple(file for file, split in splits.items() if split == "train")
    test = tuple(file for file, split in splits.items() if split == "test")
    validation = tuple(file for file in names if file not in train and file not in test) or test
    files: Files = {}
    if train:
        files["train"] = train
    if validation:
        files["validation"] = validation
    return files


@contextmanager
def readable(file: Path) -> Generator[None]:
    """Turn an error about reading a file into one line.

    Raises:
        DataError: The file is truncated, damaged, in another format, or unreadable.
    """
    import pyarrow as pa

    try:
        yield
    # Before OSError, of which BadGzipFile is a kind.
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{file} is truncated or damaged ({error}). Download it again.") from error
    except pa.ArrowException as error:
        cause = str(error).splitlines()[0]
        raise DataError(
            f"{file} is not a complete Parquet file ({cause}). Download it again."
        ) from error
    except OSError as error:
        if error.strerror is None:  # From bz2 or zstd, about a damaged file.
            raise DataError(
                f"{file} is truncated or damaged ({error}). Download it again."
            ) from error
        raise DataError(f"Cannot read {file}: {error.strerror}.") from error


@contextmanager
def opened(file: Path) -> Generator[tuple[IO[bytes], IO[bytes]]]:
    """Open a file; give its decompressed content, and the file itself for its position."""
    with file.open("rb") as raw:
        match file.suffix:
            # Each reads from `raw`, whose position shows the progress in compressed bytes.
            case ".gz":
                text: object = gzip.GzipFile(fileobj=raw)
            case ".bz2":
                text = bz2.BZ2File(raw)
            case ".xz":
                text = lzma.LZMAFile(raw)  # noqa: SIM115
            case ".zst":
                # The standard library reads zstd only from Python 3.14 on.
                import pyarrow as pa

                stream = pa.CompressedInputStream(pa.PythonFile(raw), "zstd")
                text = io.BufferedReader(cast(io.RawIOBase, stream), 2**20)
            case _:
                text = raw
        yield cast(IO[bytes], text), raw
