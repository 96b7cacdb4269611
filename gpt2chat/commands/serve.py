"""`gpt2chat serve`."""

from importlib.util import find_spec

from gpt2chat.core.config.serve import ServeConfig
from gpt2chat.core.errors import ConfigError
from gpt2chat.environment import prepare_for_chat


def serve(settings: ServeConfig) -> None:
    """Answer over HTTP as OpenAI's API does, with a chat page.

    Open the address that it prints in a browser. For an OpenAI client, the base URL is that address
    with /v1 at the end.
    """
    libraries = ("prometheus_client", "starlette", "uvicorn")
    # Looking for them imports nothing, and one message names all that are missing.
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"The server needs {' and '.join(missing)}. Install them with "
            '`pip install "gpt2chat[serve]"`.'
        )
    from gpt2chat.core.model.names import pick_model
    from gpt2chat.report import note
    from gpt2chat.serve.run import run

    prepare_for_chat()
    first, why = pick_model(settings.model[0] if settings.model else "", ("sft", "orpo"))
    names = list(dict.fromkeys((first, *settings.model[1:])))
    also = f"; also: {', '.join(names[1:])}" if names[1:] else ""
    note(f"{why}{also}")
    run(settings, names, lambda address: note(f"Listening on {address}. Press Ctrl-C to stop."))
