"""Where the program begins: `gpt2chat`, `python -m gpt2chat` and `torchrun -m gpt2chat`."""

import sys


def main() -> None:
    """Run the program; Ctrl-C ends it with one line from the first moment."""
    try:
        # Takes a tenth of a second, in which a Ctrl-C would end in a traceback.
        from gpt2chat.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; nothing was changed.\n")
        sys.exit(130)


if __name__ == "__main__":  # not in the worker processes that import it
    main()
