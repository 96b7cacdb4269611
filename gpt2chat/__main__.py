"""`python -m gpt2chat`, which `torchrun -m gpt2chat` starts too."""

from gpt2chat.cli import main

main()
