"""The program as a whole: help, examples, exit codes, colours, and what it imports."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipeline.params import read_yaml
from stages.cli import ORDER, SHORT, build, interrupt_again
from stages.command import COMMANDS
from stages.run import Run

APP = build()
TREE = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "polars", "pyarrow", "pydantic", "scipy", "matplotlib"}
HEAVY |= {"sentence_transformers", "transformers", "numpy", "yaml", "psutil", "rich", "optuna"}


def program(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, "-m", "stages.cli", *words],
        cwd=TREE, env=env | variables, text=True, capture_output=True,
    )  # fmt: skip


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys\nfrom stages.cli import build\n"
        "from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(build(), ['--help'])\n"
        "assert result.exit_code == 0 and 'Examples' in result.output\n"
        f"print([m for m in {sorted(HEAVY)!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TREE, text=True, capture_output=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_shows_examples_that_call_it(name: str) -> None:
    assert COMMANDS[name].examples, "give @command at least one example"
    assert all(line.startswith(f"spectran {name}") for line in COMMANDS[name].examples)
    result = CliRunner().invoke(APP, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output and COMMANDS[name].examples[0] in result.output
    assert COMMANDS[name].function.__doc__


def test_commands_of_two_words_stand_in_the_help_of_the_program_and_of_their_group() -> None:
    program_help = CliRunner().invoke(APP, ["--help"]).output
    group_help = CliRunner().invoke(APP, ["cache"]).output
    for name in ("cache ls", "cache verify", "cache prune"):
        assert name in program_help
        assert f"  {name.split()[1]} " in group_help


@pytest.mark.parametrize("group", [[], ["cache"]])
def test_every_line_of_the_list_of_commands_is_whole_on_80_columns(group: list[str]) -> None:
    text = CliRunner().invoke(APP, [*group, "--help"], env={"COLUMNS": "80"}).output
    lines = text.partition("Commands:\n")[2].splitlines()
    names = {name.split()[-1] for name in COMMANDS if name.split()[:-1] == group}
    assert {line.split()[0] for line in lines} >= names and len(lines) <= len(names) + 1
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


def test_only_commands_have_a_short_line() -> None:
    assert set(SHORT) <= set(COMMANDS)


def test_help_says_how_a_change_is_written() -> None:
    assert "--set KEY=VALUE " in CliRunner().invoke(APP, ["train", "--help"]).output


def test_the_example_that_rebuilds_a_card_names_one_that_is_there() -> None:
    cards = TREE / "artifacts" / "report" / "cards"
    examples = [line.split() for line in COMMANDS["report"].examples if "--card" in line]
    named = [(words[words.index("--card") + 1], "--collect" in words) for words in examples]
    assert {collects for _, collects in named} == {True, False}
    assert all((cards / name).is_dir() is not collects for name, collects in named)


def test_the_stages_are_those_of_the_order() -> None:
    stages = read_yaml(Path("dvc.yaml"))["stages"].values()
    assert {stage["cmd"].split()[1] for stage in stages} == set(ORDER) <= set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "demo", "minilm", "sasrec", "spectrann"], "spectran"),
        (["preprocess", "dmeo"], "Did you mean demo?"),
        (["encode", "demo", "minilmm"], "minilm"),
        (["train", "demo", "minilm", "sasrec", "id", "--set", "train.width=8"], "--out"),
        (["clean"], "--stale"),
        (["ls", "--params", "nowhere.yaml"], "nowhere.yaml"),
        (["ls", "--params", "."], "A file is expected"),
        (["download", "demo", "--out", "README.md"], "A folder is expected"),
        (["download", "demo", "--out", "x" * 300], "File name too long. Use a shorter name."),
    ],
)
def test_a_mistake_exits_2_with_a_message_and_no_traceback(words: list[str], said: str) -> None:
    done = program(*words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr


RESUMES = "Run the same command again to go on."


@pytest.mark.parametrize(
    ("words", "resumes"),
    [
        (["train", "demo", "none", "sasrec", "id"], True),
        (["encode", "demo", "hash"], True),
        (["tune", "demo", "none", "sasrec", "id"], True),
        (["download", "demo"], True),
        (["train", "demo", "none", "sasrec", "id", "--force"], False),  # starts anew
        (["preprocess", "demo"], False),
        (["evaluate", "demo"], False),
    ],
)
def test_ctrl_c_says_whether_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, words: list[str], resumes: bool
) -> None:
    def stop(run: Run) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "params", property(stop))
    done = CliRunner().invoke(APP, words)
    assert done.exit_code == 130
    said = "interrupted: nothing unfinished was kept under a final name"
    assert done.stderr == said + (f". {RESUMES}" if resumes else "") + "\n"


def numpy_fails() -> None:
    np.empty(10**15)


def torch_fails() -> None:
    torch.empty(10**15)


def cuda_fails() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a ...")


def cublas_fails() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def mapping_fails() -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def half_a_terabyte_fails() -> None:
    raise MemoryError("Unable to allocate 512. GiB for an array with shape ... and data type ...")


def python_fails() -> None:
    bytearray(10**17)


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        (numpy_fails, "this machine has too little memory: 7.11 PiB more were asked for. "),
        (torch_fails, "this machine has too little memory: 4000.0 TB more were "),
        (cuda_fails, "the GPU has too little memory: 2.50 GiB more were asked for. "),
        (cublas_fails, "the GPU has too little memory. "),
        (mapping_fails, "this machine has too little memory. "),
        (half_a_terabyte_fails, "this machine has too little memory: 512 GiB more were asked for."),
        (python_fails, "this machine has too little memory. "),
    ],
)
@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["train", "demo", "none", "sasrec", "id"], "Set a smaller train.batch_size"),
        (["encode", "demo", "hash"], "has them, set a smaller batch_tokens"),
        (["evaluate", "demo"], "Free some memory, or use a machine with more."),
    ],
)
def test_too_little_memory_is_told(
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[[], None],
    said: str,
    words: list[str],
    cure: str,
) -> None:
    monkeypatch.setattr(Run, "params", property(lambda run: fails()))
    done = CliRunner().invoke(APP, words)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {said}") and cure in done.stderr


def test_another_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: Run) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Run, "params", property(fail))
    done = CliRunner().invoke(APP, ["train", "demo", "none", "sasrec", "id"])
    assert isinstance(done.exception, RuntimeError) and "shapes" in str(done.exception)


def test_an_unknown_command_or_option_exits_2() -> None:
    assert program("trian").returncode == 2
    assert program("ls", "--jsno").returncode == 2


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["ls"], ["trian"], ["clean"]])
def test_no_colours_in_pipes_nor_with_no_color(words: list[str]) -> None:
    for variables in ({}, {"NO_COLOR": "1"}):
        done = program(*words, **variables)
        assert "\x1b" not in done.stdout + done.stderr
        assert "\r" not in done.stdout + done.stderr


def test_a_bar_is_drawn_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(name="encode")
    with run.progress("items", 10, "items") as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with run.progress("items", 10, "items") as advance:
        advance(10)
    assert "10/10" in capsys.readouterr().err


def test_text_from_files_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Run(name="ls").show({}, "red \x1b[31mname\x1b[2J\nnext")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and shown.count("\n") == 2


def test_an_interrupt_that_compiled_code_loses_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @ctypes.CFUNCTYPE(None)
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", interrupt_again)
    # Another test's library may have put its own handler there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()  # from C nothing can be raised: it returns as if nothing had happened
            for _ in range(100):
                time.sleep(0.1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_closed_pipe_is_no_error() -> None:
    line = f'"{sys.executable}" -m stages.cli ls --json | head -c 1'
    done = subprocess.run(["sh", "-c", line], cwd=TREE, text=True, capture_output=True)
    assert done.stderr == "" and done.stdout == "{"
