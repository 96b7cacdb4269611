"""What each typed line does in a chat. Nothing here knows keys, a prompt or a screen."""

from gpt2chat.dialogue.commands import COMMANDS
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.models import LoadedModel, Models
from gpt2chat.dialogue.text import is_open

__all__ = ["COMMANDS", "Dialogue", "LoadedModel", "Models", "is_open"]
