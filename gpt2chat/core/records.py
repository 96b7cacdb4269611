"""Records of data files: JSON Lines, JSON or Parquet, plain or compressed; how they are found."""

import glob
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from gpt2chat.core.errors import DataError

Split = Literal["train", "validation"]
Files = dict[Split, tuple[Path, ...]]

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
SUFFIXES = (
    *(suffix + packed for suffix in JSON_SUFFIXES for packed in ("", ".gz", ".xz")),
    ".parquet",
)
METADATA = ("dataset_info.json", "dataset_infos.json", "state.json", "manifest.json")
"""What stands beside data files and holds no records."""

_SPLIT_WORD = re.compile(r"(?:^|[^a-z])(train|validation|valid|val|dev|eval|test)(?:[^a-z]|$)")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file, or what is wrong with it."""

    file: str
    """As the user knows it: a file's name, or a Hub name and its split."""
    line: int
    """From 1: the line of a JSON Lines file, else the place in the list or table."""
    value: dict[str, Any]
    """Empty where the record is broken."""
    problem: str = ""
    """Why it is broken, in a few words."""
    text: str = ""
    """What stands there, if it is broken."""

    @property
    def where(self) -> str:
        """Where it stands, for an error's text."""
        return f"{self.file}, {'line' if '.jsonl' in self.file else 'record'} {self.line}"


def find_files(flag: str, value: str) -> Files:
    """Return the data files that a path, a folder or a glob stands for, by split.

    `train`, `validation` (valid, val, dev, eval) or `test` in a file's name decide the split; test
    files stand in for validation files where there are none, and are left out where there are.

    Raises:
        DataError: There is no such file, or none of a kind that can be read.
    """
    path = Path(value).expanduser()
    if path.is_dir():
        return _by_split({file: _name(file, path) for file in _folder_files(flag, path)})
    if path.is_file():
        _require_known(flag, path)
        return _by_split({path: path.name})
    if not any(sign in value for sign in "*?["):
        raise DataError(
            f"{flag} {value}: there is no such file. Give a file, a folder or a glob that exists."
        )
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    files = [file for file in found if file.is_file()]
    if not files:
        raise DataError(f"{flag} {value}: no file matches. Give a file, a folder or another glob.")
    for file in files:
        _require_known(flag, file)
    return _by_split({file: file.name for file in files})


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _folder_files(flag: str, folder: Path) -> list[Path]:
    files = [
        file
        for file in folder.rglob("*")
        if file.name.endswith(SUFFIXES)
        and file.name not in METADATA
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    ]
    # A copy of a Hub repository: what its data/ holds is the data set, other files are extras.
    files = [file for file in files if _name(file, folder).startswith("data/")] or files
    if not files:
        raise DataError(f"{flag} {folder}: no data file in it (.jsonl, .json or .parquet).")
    return sorted(files, key=lambda file: _name(file, folder))


def _require_known(flag: str, file: Path) -> None:
    if not file.name.endswith(SUFFIXES):
        raise DataError(
            f"{flag} {file}: not a kind of file that can be read. "
            "Give .jsonl, .json (also .gz or .xz) or .parquet."
        )


def _by_split(names: dict[Path, str]) -> Files:
    words = {file: _SPLIT_WORD.search(name.lower()) for file, name in names.items()}
    splits = {file: word[1] if word else "train" for file, word in words.items()}
    train = tuple(file for file, split in splits.items() if split == "train")
    test = tuple(file for file, split in splits.items() if split == "test")
    validation = tuple(file for file in names if file not in train and file not in test) or test
    found: Files = {}
    if train:
        found["train"] = train
    if validation:
        found["validation"] = validation
    return found


def read_file(file: Path) -> Iterator[Record]:
    """Yield the records of a data file in order, broken ones with what is wrong.

    Raises:
        DataError: The file as a whole cannot be read.
    """
    with _readable(file):
        if file.suffix == ".parquet":
            yield from _parquet(file)
        elif ".json" in file.suffixes and _is_list(file):
            yield from _list(file)
        else:
            with _open(file) as lines:
                yield from _lines(file.name, lines)


@contextmanager
def _readable(file: Path) -> Generator[None]:
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{file} is cut short or damaged ({error}). Get it again.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error


def _open(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return cast(IO[bytes], gzip.open(file, "rb"))
    return lzma.open(file, "rb") if file.suffix == ".xz" else file.open("rb")


def _lines(name: str, lines: IO[bytes]) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _parsed(name, number, line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n"))


def _parsed(name: str, number: int, line: bytes) -> Record:
    try:
        value: Any = json.loads(line)
    except UnicodeDecodeError:
        problem = "not UTF-8"
    except json.JSONDecodeError as error:
        problem = f"not JSON ({error.msg}, column {error.colno})"
    except RecursionError:
        problem = "not JSON (nested too deep)"
    else:
        return _record(name, number, value)
    return Record(name, number, {}, problem, line.decode(errors="replace"))


def _record(name: str, number: int, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(name, number, cast(dict[str, Any], value))
    return Record(name, number, {}, "not an object with named fields", json.dumps(value))


def _is_list(file: Path) -> bool:
    with _open(file) as lines:
        first = next((line for line in lines if line.strip()), b"")
    return first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _list(file: Path) -> Iterator[Record]:
    with _open(file) as opened:
        try:
            values: Any = json.loads(opened.read())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} is not JSON: {error}.") from error
    for number, value in enumerate(values, start=1):
        yield _record(file.name, number, value)


def _parquet(file: Path) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1000):
                for value in cast(list[dict[str, Any]], batch.to_pylist()):
                    number += 1
                    yield Record(file.name, number, value)
    except pa.ArrowException as error:
        cause = str(error).splitlines()[0]
        raise DataError(f"{file} is not a whole Parquet file ({cause}).") from error
