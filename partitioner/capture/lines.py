"""Where in the user's code a call came from."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import FrameType, TracebackType

import torch

_OURS = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)
_SKIPPED = (_OURS, _TORCH, "<frozen", "<string>", "<eval_with_key")


def user_line() -> str:
    """Tell the innermost line outside PyTorch and this package: `file.py:12: x = f(x)`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if not filename.startswith(_SKIPPED):
            return written(filename, frame.f_lineno)
        frame = frame.f_back
    return ""


def line_of(traceback: TracebackType | None) -> str:
    """Tell the innermost user's line of a traceback, with the whole path of the file."""
    found = ""
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if not filename.startswith(_SKIPPED):
            text = linecache.getline(filename, traceback.tb_lineno).strip()
            found = f"{filename}:{traceback.tb_lineno}: {text}"
        traceback = traceback.tb_next
    return found


def written(filename: str, line: int) -> str:
    """Write a line as `file.py:12: its text`, the file without its folders."""
    text = linecache.getline(filename, line).strip()
    return f"{Path(filename).name}:{line}: {text}" if text else f"{Path(filename).name}:{line}"
