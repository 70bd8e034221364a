"""Where in the user's code a call came from."""

from __future__ import annotations

import linecache
import os
import sys
from pathlib import Path
from types import FrameType, TracebackType

import torch

_OURS = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)
_SKIPPED = (_OURS, _TORCH, "<frozen", "<string>", "<eval_with_key")


def user_line() -> str:
    """Tell the innermost line of the model's own code that is running: `file.py:12: x = f(x)`.

    It is empty where PyTorch's containers call one another.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if filename.startswith(_OURS) and frame.f_code.co_name == "run":
            return ""
        if not filename.startswith(_SKIPPED):
            return written(filename, frame.f_lineno)
        frame = frame.f_back
    return ""


def lines_of(traceback: TracebackType | None) -> tuple[str, str]:
    """Tell the innermost user's line of a traceback, with and without the folders of its file."""
    found = ("", "")
    while traceback is not None:
        filename, line = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        if not filename.startswith(_SKIPPED):
            found = (written(filename, line, folders=True), written(filename, line))
        traceback = traceback.tb_next
    return found


def written(filename: str, line: int, *, folders: bool = False) -> str:
    """Write a line as `file.py:12: its text`."""
    text = linecache.getline(filename, line).strip()
    where = f"{filename if folders else os.path.basename(filename)}:{line}"
    return f"{where}: {text}" if text else where
