"""Track which fields of a record are used, so that no field is ignored silently.

Every field is used, is in `IRRELEVANT`, repeats a text that was used, or is reported.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

from gpt2chat.core.errors import RowError

_WHICH = """
id ids _id idx index uid uuid guid hash row_id record_id example_id sample_id item_id
prompt_id question_id task_id conv_id conversation_id conversation_hash dialog_id dialogue_id
session_id thread_id message_id parent_id message_tree_id tree_id turn_id turn_identifier
source sources source_id source_file source_dataset dataset dataset_name dataset_source subset
split origin original_index link url urls license licence version provenance
"""
_MADE_BY = """
date datetime time timestamp create_time created created_at created_date creation_date
update_time updated updated_at user_id user_name username avatarUrl author annotator
annotator_id annotators worker_id country hashed_ip header
model models model_name model_id chosen_model rejected_model chosen-model rejected-model
generator generated_by generation_model completion_model engine temperature top_p seed
"""
_ABOUT = """
lang language languages category categories topic topics subject domain domains
task tasks task_type task_name title tag tags keyword keywords views skip_prompt_formatting
length lengths tokens num_tokens n_tokens token_count num_turns n_turns turn turns
num_messages word_count char_count
review_count synthetic tree_state detoxify emojis
"""
IRRELEVANT = frozenset(f"{_WHICH} {_MADE_BY} {_ABOUT}".split())
"""Fields of records and messages that do not change what a reply means or whether it is good:
identifiers, authors, topics, sizes. The only list of its kind: a field that is not in it is used
or reported."""

RENDERINGS = ("text", "prompt", "formatted_text")
"""Fields that may repeat the whole record, rendered with some template, as Alpaca's `text` does.
Under any other name, a long text may contain the short ones by chance."""
NAME_LENGTH = 40
"""Characters of a field's name that a report shows."""


def is_missing(value: object) -> bool:
    """Return whether a table's cell is empty: null, or the NaN that pandas writes for null."""
    return value is None or (isinstance(value, float) and value != value)


def is_empty(value: object) -> bool:
    """Return whether a value has no content: missing, blank, or an empty list or object."""
    if isinstance(value, str):
        # Tables often hold lists and objects as JSON text.
        return value.strip() in ("", "[]", "{}", "null")
    if isinstance(value, dict):
        # Parquet gives each object all fields that any row has, so an empty one has only nulls.
        return all(map(is_missing, cast(dict[str, object], value).values()))
    return is_missing(value) or (isinstance(value, list) and not value)


class Fields:
    """The unused fields of one JSON object."""

    def __init__(self, values: Mapping[str, Any]):
        # A table has a cell for each column, whether or not the record has the field.
        self._rest = {name: value for name, value in values.items() if not is_missing(value)}
        # A dictionary for its order: a report names fields as they come in the data.
        self.inner: dict[str, None] = {}
        """Unused fields of objects inside this one, by path."""

    def has_any(self, names: frozenset[str]) -> bool:
        """Return whether one of these fields is unused: a quick check before the detailed ones."""
        return not names.isdisjoint(self._rest)

    def peek(self, name: str) -> Any:
        """Return a field without using it; None if it is missing."""
        return self._rest.get(name)

    def take(self, *names: str) -> Any:
        """Use the first of these fields that is present, and return it; None if none is."""
        for name in names:
            if name in self._rest:
                return self._rest.pop(name)
        return None

    def need(self, *names: str) -> Any:
        """Use the first of these fields that is present, and return it.

        Raises:
            RowError: None of them is present.
        """
        value = self.take(*names)
        if value is None:
            raise RowError(f"no field {names[0]}")
        return value

    def unused(self, texts: Collection[str] = ()) -> Iterator[str]:
        """Yield the names of the unused fields that might matter.

        Args:
            texts: Texts that were used. A field that repeats one of them adds nothing.
        """
        for name, value in self._rest.items():
            if name in IRRELEVANT or is_empty(value):
                continue
            if texts and isinstance(value, str):
                is_rendering = name in RENDERINGS and all(text in value for text in texts)
                if is_rendering or value.strip() in texts:
                    continue
            yield name[:NAME_LENGTH]
        yield from self.inner
