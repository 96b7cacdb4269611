"""Data sets by their Hub name, from a Hub on the loopback interface; and what can go wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.prepare import prepare
from gpt2chat.core.data.shards import read_pairs, read_samples
from gpt2chat.core.inputs.hub import HubName, is_hub_name, parse_name
from tests.helpers import ignore, sample_rows
from tests.hub_server import LAYOUTS, Fault, Hub, card, hub_environment, table_bytes

Process = subprocess.CompletedProcess[str]
Rows = list[dict[str, Any]]

OASST1, ALPACA = PrepareConfig.oasst1, PrepareConfig.alpaca
PAIRS, H4, HH = (
    PrepareConfig.ultrafeedback,
    "HuggingFaceH4/ultrafeedback_binarized",
    "Anthropic/hh-rlhf",
)
NAMES = (OASST1, ALPACA, PAIRS)
TWO = [f"data/train-0000{number}-of-00002.parquet" for number in range(2)]
"""The files of a data set whose only split has two."""

CLIENT = """
import json, os, sys, time
from gpt2chat.core.inputs import hub
from gpt2chat.core.errors import Gpt2ChatError

hub.CHUNK_ROWS = 16
time.sleep = lambda seconds: None  # the libraries wait between their tries, and these are many

def full(*arguments, **options):
    raise OSError(28, "No space left on device")

def answer(name, content, streaming, patience=None, disk_is_full=False):
    from huggingface_hub import constants, file_download
    if patience:
        hub.TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT = patience
    if disk_is_full:
        file_download.http_get = full
    told = {"rows": {}, "batches": {}}
    try:
        reached = hub.reach("chat", name)
        data = hub.load_hub("chat", name, content, reached=reached, streaming=streaming)
        told |= {"revision": data.revision, "cached": data.cached}
        told["sizes"] = data.sizes
        for split in data.splits:
            told["rows"][split], told["batches"][split] = [], []
            for records in data.records(split):
                told["rows"][split] += records.table.to_pylist()
                told["batches"][split].append(len(records.table))
    except Gpt2ChatError as error:
        told |= {"error": type(error).__name__, "text": str(error)}
    return told

for question in json.load(sys.stdin):
    print(json.dumps(answer(**question)))
"""


def question(name: str, content: str = "chat", streaming: bool = False, **more: Any) -> Any:
    return {"name": name, "content": content, "streaming": streaming, **more}


def ask(environment: dict[str, str], folder: Path, *questions: Any) -> list[dict[str, Any]]:
    """Return what a fresh process gets for each question: rows, or the error's kind and text."""
    process = subprocess.run(
        [sys.executable, "-c", CLIENT],
        input=json.dumps(questions), env=environment, cwd=folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return [json.loads(line) for line in process.stdout.splitlines()]


def known_rows() -> dict[str, dict[str, Rows]]:
    """Return rows for the well-known data sets in their own schemas, by name and split."""
    messages = sample_rows("oasst1.validation.jsonl.gz", 400)
    instructions = sample_rows("instructions.train.jsonl.gz", 60)
    pairs = sample_rows("ultrafeedback.jsonl.gz", 60)
    whole = [{"prompt": p["chosen"][0]["content"], "messages": p["chosen"], **p} for p in pairs]
    spoken = [
        {
            side: f"\n\nHuman: Number {number}?\n\nAssistant: {side}"
            for side in ("chosen", "rejected")
        }
        for number in range(40)
    ]
    return {
        OASST1: {"train": messages[200:], "validation": messages[:200]},
        ALPACA: {"train": [{**row, "text": row["output"]} for row in instructions]},
        PAIRS: {"train": pairs[:40], "test": pairs[40:]},
        H4: {split: whole[n * 10 : n * 10 + 10] for n, split in enumerate(LAYOUTS[H4])},
        HH: {"train": spoken[:30], "test": spoken[30:]},
    }


@pytest.fixture
def known(hub: Hub) -> Hub:
    """A Hub with the well-known data sets, their files where they stand on the real one."""
    for name, splits in known_rows().items():
        hub.add_known(name, splits)
    return hub


def add_two(hub: Hub, name: str) -> dict[str, bytes]:
    """Serve 1,000 rows in two files; return the repository, to spoil."""
    rows = sample_rows("instructions.train.jsonl.gz", 1000)
    hub.add_splits(name, {TWO[0]: rows[:500], TWO[1]: rows[500:]})
    return hub.repositories["datasets", name]


# Names, splits and rows


@pytest.mark.parametrize("value", [
    "gpt2", "OpenAssistant/oasst1", "a-b/c.d_e", "a/b:train", "a/b:train_prefs",
    "a/b:train[:5000]", "a/b:train[10:20]", "a/b:train[50%:]", "b:test",
])  # fmt: skip
def test_a_repository_with_an_optional_split_is_a_hub_name(value: str):
    assert is_hub_name(value)


@pytest.mark.parametrize("value", [
    "", ".", "./a", "/a/b", "a/b/c", "~/a", f"a{os.sep}", "a b",
    "a/b:", "a/b:train[", "a/b:train[5]", "a/b:train[-5:]", "a/b:train[:5]x", "a/b:c/d", "a\n",
])  # fmt: skip
def test_a_path_or_a_malformed_split_is_not_a_hub_name(value: str):
    assert not is_hub_name(value)


def test_a_name_can_limit_the_split_and_its_rows():
    assert parse_name("a/b") == HubName("a/b")
    assert parse_name("a/b:test") == HubName("a/b", "test")
    cut = parse_name("a/b:train[10%:500]")
    assert cut == HubName("a/b", "train", "10%", "500")
    assert cut.rows(2000) == (200, 500)
    assert cut.rows(None) is None
    assert parse_name("a/b:train[7:]").rows(None) == (7, None)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_data_sets_laid_out_like_the_real_ones_give_all_their_rows(
    known: Hub, tmp_path: Path, streaming: bool
):
    rows = known_rows()
    picked = {
        (OASST1, "oasst1"): ("train", "validation"),
        (ALPACA, "chat"): ("train", None),
        (PAIRS, "preference"): ("train", "test"),
        (H4, "preference"): ("train_prefs", "test_prefs"),
        (H4, "chat"): ("train_sft", "test_sft"),
    }
    asked = [question(name, content, streaming) for name, content in picked]
    asked.append(question(HH, "preference", streaming))
    *answers, hh = ask(known.env(tmp_path), tmp_path, *asked)
    for ((name, _), (train, validation)), told in zip(picked.items(), answers, strict=True):
        expected = {"train": rows[name][train]}
        if validation:
            expected["validation"] = rows[name][validation]
        assert told["rows"] == expected
        assert told["sizes"] == {split: len(found) for split, found in expected.items()}
        assert all(max(sizes) <= 16 for sizes in told["batches"].values())
        assert told["revision"] == known.revision("datasets", name)
        assert not told["cached"]
    # Four files a split, one after the other; how many rows they have, no README says.
    assert {row["chosen"] for row in hh["rows"]["train"]} == {
        r["chosen"] for r in rows[HH]["train"]
    }
    assert len(hh["rows"]["validation"]) == len(rows[HH]["test"])
    assert hh["sizes"] == (
        {"train": None, "validation": None} if streaming else {"train": 30, "validation": 10}
    )
    downloaded = [path for path in tmp_path.rglob("*") if path.suffix in (".parquet", ".arrow")]
    assert bool(downloaded) is not streaming


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_a_split_and_its_first_rows_can_be_asked_for(known: Hub, tmp_path: Path, streaming: bool):
    rows = known_rows()
    asked = {
        f"{ALPACA}:train[:10]": rows[ALPACA]["train"][:10],
        f"{ALPACA}:train[10:20]": rows[ALPACA]["train"][10:20],
        f"{ALPACA}:train[50%:]": rows[ALPACA]["train"][30:],
        f"{ALPACA}:train[:5000]": rows[ALPACA]["train"],
        f"{H4}:test_gen": rows[H4]["test_gen"],
    }
    answers = ask(
        known.env(tmp_path), tmp_path, *(question(name, "chat", streaming) for name in asked)
    )
    for told, expected in zip(answers, asked.values(), strict=True):
        assert told["rows"] == {"train": expected}
        assert told["sizes"] == {"train": len(expected)}


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_a_missing_split_is_reported_before_the_download(
    known: Hub, tmp_path: Path, streaming: bool
):
    wrong, none, beyond, *unknown = ask(
        known.env(tmp_path),
        tmp_path,
        question(f"{ALPACA}:test", "chat", streaming),
        question(H4, "oasst1", streaming),
        question(f"{ALPACA}:train[60:]", "chat", streaming),
        *([question(f"{HH}:train[:50%]", "chat", streaming)] if streaming else []),
    )
    assert {told["error"] for told in (wrong, none, beyond, *unknown)} == {"DataError"}
    assert "Choose one of these: train" in wrong["text"]
    assert ", ".join(LAYOUTS[H4]) in none["text"]
    assert "60 rows" in beyond["text"]
    assert all("shares" in told["text"] for told in unknown)
    assert not [asked for asked in known.requests if H4 in asked and ".parquet" in asked]


# What can go wrong


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_a_failing_or_refusing_hub_is_a_network_error(hub: Hub, tmp_path: Path, streaming: bool):
    said = {
        "o/500": ("(500)", "again"),
        "o/503": ("(503)", "again"),
        "o/429": ("(429)", "hf auth login"),
        "o/403": ("(403)", "hf auth login"),
        "o/gated": ("gated", "hf auth login"),
        "o/private": ("Check the spelling", "private"),
        "o/cut": ("Lost the connection", "again"),
        "o/readme": ("(500)", "again"),
        "o/api": ("(502)", "again later"),
        "o/limit": ("(429)", "again later"),
    }
    for name in set(said) - {"o/gated", "o/private"}:
        add_two(hub, name)
    hub.add_gated("o/gated")
    hub.faults = {f"o/{status}": Fault(status=status) for status in (500, 503, 429, 403)}
    hub.faults["o/cut"] = Fault(cut=30_000)
    hub.faults["o/readme"] = Fault(suffix="README.md", status=500)
    hub.faults["o/api"] = Fault(suffix="o/api", status=502)
    hub.faults["o/limit"] = Fault(suffix="o/limit", status=429)
    asked = [question(name, "chat", streaming) for name in said]
    answers = ask(hub.env(tmp_path), tmp_path, *asked)
    for told, texts in zip(answers, said.values(), strict=True):
        assert told.get("error") == "NetworkError", told.get("text")
        assert all(text in told["text"] for text in texts), told["text"]
        assert "\n" not in told["text"]
        assert "`chat=FILE`" in told["text"]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_a_hub_that_is_too_slow_is_a_network_error(hub: Hub, tmp_path: Path, streaming: bool):
    add_two(hub, "o/slow")
    add_two(hub, "o/asleep")
    hub.faults = {"o/slow": Fault(seconds=1), "o/asleep": Fault(suffix="o/asleep", seconds=1)}
    slow, asleep = ask(
        hub.env(tmp_path), tmp_path,
        question("o/slow", "chat", streaming, patience=0.2),
        question("o/asleep", "chat", streaming, patience=0.2),
    )  # fmt: skip
    assert slow["error"] == asleep["error"] == "NetworkError"
    assert "(timed out)" in slow["text"]
    assert "(timed out)" in asleep["text"]


def test_the_run_after_an_interrupted_download_fetches_only_the_rest(hub: Hub, tmp_path: Path):
    add_two(hub, "o/two")
    hub.faults["o/two"] = Fault(suffix=TWO[1], cut=30_000)
    (told,) = ask(hub.env(tmp_path), tmp_path, question("o/two"))
    assert told["error"] == "NetworkError"
    hub.faults.clear()
    hub.requests.clear()
    (told,) = ask(hub.env(tmp_path), tmp_path, question("o/two"))
    assert len(told["rows"]["train"]) == 1000
    downloads = [
        asked for asked in hub.requests if asked.startswith("GET") and "bytes" not in asked
    ]
    assert not [asked for asked in downloads if asked.endswith(TWO[0])]
    assert len([asked for asked in downloads if asked.endswith(TWO[1])]) == 1


def test_a_stream_gives_its_rows_up_to_the_lost_connection(hub: Hub, tmp_path: Path):
    rows = sample_rows("instructions.train.jsonl.gz", 500)
    faults = {"o/cut": Fault(suffix=TWO[1], cut=30_000), "o/500": Fault(suffix=TWO[1], status=500)}
    for name in (*faults, "o/short"):
        add_two(hub, name)
    hub.faults = faults
    hub.repositories["datasets", "o/short"][TWO[1]] = b"PAR1 and no more"
    cut, fails, short = ask(
        hub.env(tmp_path), tmp_path,
        *(question(name, "chat", streaming=True) for name in ("o/cut", "o/500", "o/short")),
    )  # fmt: skip
    for told, kind in ((cut, "NetworkError"), (fails, "NetworkError"), (short, "DataError")):
        assert told["error"] == kind
        got = told["rows"]["train"]
        assert 480 <= len(got) <= 500
        assert got == rows[: len(got)]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_damaged_or_unsuitable_files_are_a_data_error(hub: Hub, tmp_path: Path, streaming: bool):
    short, corrupt = add_two(hub, "o/short"), add_two(hub, "o/corrupt")
    short[TWO[0]] = short[TWO[0]][:20_000]
    corrupt[TWO[1]] = corrupt[TWO[1]][:10_000] + bytes(2000) + corrupt[TWO[1]][12_000:]
    packed = table_bytes("a.jsonl.gz", sample_rows("instructions.train.jsonl.gz", 500))
    configs = [{"config_name": name, "data_files": name + ".jsonl"} for name in ("de", "en")]
    files: dict[str, dict[str, bytes]] = {
        "o/packed": {"train.jsonl.gz": packed[:-5000]},
        "o/broken": {"train.jsonl": b'{"a": 1}\n{"a": \n'},
        "o/columns": {"a.jsonl": b'{"a": 1}\n', "b.jsonl": b'{"b": "1"}\n'},
        "o/empty": {"notes.bin": b"no data"},
        "o/program": {"program.py": b"print(1)"},
        "o/configs": {
            "de.jsonl": b'{"a": 1}\n', "en.jsonl": b'{"a": 2}\n',
            "README.md": f"---\n{json.dumps({'configs': configs})}\n---\n".encode(),
        },
    }  # fmt: skip
    for name, contents in files.items():
        hub.repositories["datasets", name] = contents
    said = {
        "o/short": "damaged (Parquet magic",
        "o/corrupt": "damaged (Corrupt",
        "o/packed": "damaged (Compressed",
        "o/broken": "damaged (JSON parse",
        "o/columns": "different columns",
        "o/empty": "No (supported) data files found",
        "o/program": "loading script",
        "o/configs": "(de, en)",
    }
    asked = [question(name, "chat", streaming) for name in said]
    for told, text in zip(ask(hub.env(tmp_path), tmp_path, *asked), said.values(), strict=True):
        assert told.get("error") == "DataError", told.get("text")
        assert text in told["text"]
        assert "\n" not in told["text"]
        assert "`chat=FILE`" in told["text"]


def test_a_card_that_disagrees_with_its_files_is_a_data_error(hub: Hub, tmp_path: Path):
    rows = sample_rows("instructions.train.jsonl.gz", 20)
    hub.add_splits("o/stale", {TWO[0]: rows}, card({"train": TWO[:1]}, {"train": rows[:7]}))
    (told,) = ask(hub.env(tmp_path), tmp_path, question("o/stale"))
    assert told["error"] == "DataError"
    assert "number of rows" in told["text"]


def test_a_cache_that_cannot_be_written_is_a_storage_error(known: Hub, tmp_path: Path):
    (tmp_path / "file").write_text("")
    below = {**known.env(tmp_path), "HF_HOME": str(tmp_path / "file" / "hf")}
    (told,) = ask(below, tmp_path, question(ALPACA))
    assert told["error"] == "StorageError"
    assert "Point HF_HOME" in told["text"]
    (told,) = ask(known.env(tmp_path), tmp_path, question(ALPACA, disk_is_full=True))
    assert told["error"] == "StorageError"
    assert "No space" in told["text"]


# Without network


def test_a_downloaded_data_set_can_be_used_without_network(known: Hub, tmp_path: Path):
    environment = known.env(tmp_path)
    (first,) = ask(environment, tmp_path, question(ALPACA))
    nobody = {**environment, "HF_ENDPOINT": "http://127.0.0.1:1"}
    cases: list[dict[str, str]] = [{**environment, "HF_HUB_OFFLINE": "1"}, nobody]
    for case in cases:
        whole, streamed, cut, other = ask(
            case, tmp_path,
            question(ALPACA), question(ALPACA, streaming=True), question(f"{ALPACA}:train[:5]"),
            question(PAIRS, "preference"),
        )  # fmt: skip
        assert whole == streamed == {**first, "cached": True}
        assert cut["rows"]["train"] == first["rows"]["train"][:5]
        assert other["error"] == "NetworkError"
        assert f"Cannot reach the Hugging Face Hub for {PAIRS}" in other["text"]
    known.faults[ALPACA] = Fault(suffix=ALPACA, status=503)
    (told,) = ask(environment, tmp_path, question(ALPACA))
    assert told == {**first, "cached": True}


def test_a_streamed_data_set_cannot_be_used_without_network(known: Hub, tmp_path: Path):
    ask(known.env(tmp_path), tmp_path, question(ALPACA, streaming=True))
    offline = {**known.env(tmp_path), "HF_HUB_OFFLINE": "1"}
    (told,) = ask(offline, tmp_path, question(ALPACA))
    assert told["error"] == "NetworkError"
    assert "HF_HUB_OFFLINE" in told["text"]


# Through the command


def run_prepare(environment: dict[str, str], folder: Path, *arguments: str) -> Process:
    command = [sys.executable, "-m", "gpt2chat", "prepare", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def ids(data: Path) -> list[str]:
    samples = [*read_samples(data, "train"), *read_samples(data, "validation")]
    pairs = [*read_pairs(data, "train"), *read_pairs(data, "validation")]
    return [*(sample.id for sample in samples), *(pair.id for pair in pairs)]


def local_copies(hub: Hub, folder: Path) -> list[str]:
    """Return folders with the files of the three data sets."""
    for name in NAMES:
        for path, content in hub.repositories["datasets", name].items():
            (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / path).write_bytes(content)
    return [str(folder / name) for name in NAMES]


def test_names_on_the_hub_and_local_copies_give_the_same_shards(known: Hub, tmp_path: Path):
    first = run_prepare(known.env(tmp_path), tmp_path)
    assert first.returncode == 0, first.stderr
    oasst1, alpaca, pairs = local_copies(known, tmp_path / "copies")
    prepare(
        PrepareConfig(oasst1=oasst1, alpaca=alpaca, ultrafeedback=pairs, out=tmp_path / "local"),
        ignore,
    )
    assert ids(tmp_path / "data") == ids(tmp_path / "local")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    commits = {entry["name"]: entry["revision"] for entry in manifest["inputs"]}
    assert commits == {name: known.revision("datasets", name) for name in NAMES}

    # What was downloaded once is there without network too, and gives the same bytes.
    before = (tmp_path / "data" / "manifest.json").read_bytes()
    again = run_prepare({**known.env(tmp_path), "HF_HUB_OFFLINE": "1"}, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "the copy in the cache" in again.stderr
    assert (tmp_path / "data" / "manifest.json").read_bytes() == before


def assert_one_line(process: Process, folder: Path, *said: str) -> None:
    assert process.returncode == 7
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1, process.stderr
    assert all(text in process.stderr for text in said)
    assert not (folder / "data").exists()
    assert not list(folder.glob(".data*"))


def test_without_network_the_message_suggests_the_sample_and_files(tmp_path: Path):
    nobody = hub_environment("http://127.0.0.1:1", tmp_path)
    process = run_prepare(nobody, tmp_path)
    said = ("Cannot reach the Hugging Face Hub for OpenAssistant/oasst1", "Connection refused")
    assert_one_line(process, tmp_path, *said, "gpt2chat prepare --sample", "--oasst1 FILE")


def test_offline_mode_with_an_empty_cache_is_one_line(tmp_path: Path):
    offline = {**hub_environment("http://127.0.0.1:1", tmp_path), "HF_HUB_OFFLINE": "1"}
    process = run_prepare(offline, tmp_path)
    assert_one_line(process, tmp_path, "Cannot reach the Hugging Face Hub", "--sample")


def test_a_wrong_name_is_one_line(hub: Hub, tmp_path: Path):
    arguments = ("--oasst1", "off", "--ultrafeedback", "off", "--alpaca", "tatsu-lab/alpacca")
    process = run_prepare(hub.env(tmp_path), tmp_path, *arguments)
    assert_one_line(process, tmp_path, "--alpaca tatsu-lab/alpacca", "Check the spelling")


def test_a_gated_data_set_is_one_line(hub: Hub, tmp_path: Path):
    hub.add_gated("owner/gated")
    arguments = ("--oasst1", "off", "--ultrafeedback", "off", "--alpaca", "owner/gated")
    process = run_prepare(hub.env(tmp_path), tmp_path, *arguments)
    assert process.stderr.startswith("error: --alpaca owner/gated is gated")
    assert_one_line(process, tmp_path, "hf auth login", "--alpaca FILE")


def test_a_model_folder_is_served_as_it_is(hub: Hub, tiny_folder: Path, tmp_path: Path):
    hub.add_model("owner/tiny", tiny_folder)
    code = "from huggingface_hub import snapshot_download as get; print(get('owner/tiny'))"
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=hub.env(tmp_path), capture_output=True, text=True, check=True,
    )  # fmt: skip
    copy = Path(process.stdout.strip())
    for file in tiny_folder.iterdir():
        assert (copy / file.name).read_bytes() == file.read_bytes()
