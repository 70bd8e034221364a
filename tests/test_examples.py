"""The examples run, and do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.forks import Forked, program

pytest.importorskip("sklearn")


def test_the_seqnet_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples.seqnet import __main__ as demo

    monkeypatch.setattr(demo, "PICTURES", tmp_path / "out")
    monkeypatch.setattr(demo, "EPOCHS", 1)
    demo.main()
    shown = capsys.readouterr().out
    assert "SeqNet on cuda:0 (1 more left empty)" in shown
    assert "SeqNet on cuda:0 and cuda:1, training with adam" in shown
    assert "class HandSplitSeqNet" in shown
    assert "largest difference of two losses" in shown
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "graph.svg",
        "graph.png",
        "graph.html",
    }


def test_the_gpt2_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    from examples.gpt2 import __main__ as example

    monkeypatch.setattr(example, "PICTURES", tmp_path)
    monkeypatch.setattr(example, "STEPS", 2)
    example.main()
    assert "step  1: loss" in capsys.readouterr().out


def test_the_unet_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples.unet import __main__ as example

    monkeypatch.setattr(example, "PICTURES", tmp_path)
    monkeypatch.setattr(example, "STEPS", 2)
    example.main()
    assert "step  1: loss" in capsys.readouterr().out
    assert (tmp_path / "unet.svg").exists()


def test_the_pipeline_example(tmp_path: Path) -> None:
    """In a process of its own, which starts two more."""
    done = Forked(tmp_path, program, "examples.pipeline", (), str(tmp_path)).finished(300)
    assert done.returncode == 0, done.stderr
    assert "in 2 processes" in done.stdout
    assert (tmp_path / "out" / "pipeline.svg").exists()


def test_digits_are_images_of_28_by_28() -> None:
    from examples.seqnet import digits

    images, labels = digits()[0]
    assert images.shape == (64, 1, 28, 28)
    assert 0 <= images.min() < images.max() <= 1
    assert labels.dtype == torch.int64
