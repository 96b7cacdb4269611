"""`python -m gpt2chat`, which `torchrun -m gpt2chat` starts too."""

from gpt2chat.cli import main

if __name__ == "__main__":  # not in the worker processes that import it
    main()
