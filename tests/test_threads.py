"""How the program ends while a thread of its own works on."""

import subprocess
import sys

import pytest

WORKING = """
import sys, threading, time
from gpt2chat.threads import exit_without_waiting, start_thread
{begin}
print("said", end="")
exit_without_waiting({code})
print(" and on", end="")
"""


def run(begin: str, code: str) -> tuple[int, str]:
    program = WORKING.format(begin=begin, code=code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize(("code", "seen"), [("None", 0), ("0", 0), ("143", 143), ("'why'", 1)])
def test_with_a_thread_at_work_the_process_ends_there_with_its_code(code: str, seen: int):
    assert run("start_thread(lambda: time.sleep(600))", code) == (seen, "said")


def test_without_one_the_program_goes_on_to_its_end():
    ended = "start_thread(lambda: None)\nwhile len(threading.enumerate()) > 1: time.sleep(0.01)"
    assert run(ended, "3") == (0, "said and on")
