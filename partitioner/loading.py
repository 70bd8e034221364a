"""Models and inputs out of texts: what the command line's arguments stand for."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
import linecache
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from partitioner.errors import CaptureError, SpecError
from partitioner.spec import hint

DTYPES = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "c64": torch.complex64,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
    "bool": torch.bool,
}
"""Short names; PyTorch's own ones, such as `float32`, are understood as well."""

_INPUT = re.compile(r"\s*(?:([A-Za-z_]\w*)\s*=\s*)?([A-Za-z]\w*)\s*\[\s*([\d\s,]*)\]\s*")

Call = tuple[tuple[Any, ...], dict[str, Any]]


def load_model(reference: str, *, materialised: bool = False, seed: int = 0) -> nn.Module:
    """The model that `package.module:name` or `hf:DIR_OR_CONFIG_JSON` names.

    A name may be a module, a class (called without arguments) or a function that gives a module.
    A Hugging Face configuration becomes a model on `meta`, or with random weights where
    `materialised`; no weights are loaded.

    Raises:
        SpecError: there is no such thing, or it fails; the message has the line.
    """
    if reference.startswith("hf:"):
        return _hugging_face(reference.removeprefix("hf:"), materialised=materialised, seed=seed)
    found = load_object(reference)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise SpecError(
            f"'{reference}' is a {type(found).__name__}; a model is an nn.Module, its class, or a "
            "function that gives one"
        )
    torch.manual_seed(seed)
    made = _called(found, reference)
    if not isinstance(made, nn.Module):
        raise SpecError(f"'{reference}' gives a {type(made).__name__}, not an nn.Module")
    return made


def load_object(reference: str) -> Any:
    """The object that `package.module:name` names; modules in the current folder are found.

    Raises:
        SpecError: there is no such thing, or importing it fails; the message has the line.
    """
    module_name, colon, attribute = reference.partition(":")
    if not (colon and module_name and attribute):
        raise SpecError(
            f"'{reference}' is not of the form package.module:name, such as 'examples.seqnet:model'"
        )
    found: Any = _imported(module_name, reference)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            known = [name for name in vars(found) if not name.startswith("_")]
            raise SpecError(f"'{module_name}' has no '{attribute}'; {hint(part, known)}") from None
    return found


def parse_inputs(texts: Sequence[str]) -> Call:
    """Example inputs on `meta` from texts such as `f32[64,1,28,28]` or `input_ids=i64[2,128]`.

    Raises:
        SpecError: a text has another form, an unknown type, or a keyword twice.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        found = _INPUT.fullmatch(text)
        if found is None:
            raise SpecError(
                f"cannot read the input '{text}'; write it as f32[64,1,28,28], or as "
                "input_ids=i64[2,128] for a keyword"
            )
        keyword, dtype_name, sizes = found.groups()
        shape = [int(size) for size in sizes.split(",") if size.strip()]
        tensor = torch.empty(
            shape, dtype=parse_dtype(dtype_name, f" in the input '{text}'"), device="meta"
        )
        if keyword is None:
            args.append(tensor)
        elif keyword in kwargs:
            raise SpecError(f"the input '{keyword}' is given twice")
        else:
            kwargs[keyword] = tensor
    return tuple(args), kwargs


def load_inputs(reference: str) -> Call:
    """Example inputs that `package.module:name` names: a tensor, tuple, dict, or a function.

    Raises:
        SpecError: there is no such thing, it fails, or it gives something else.
    """
    found = load_object(reference)
    if callable(found) and not isinstance(found, torch.Tensor):
        found = _called(found, reference)
    match found:
        case torch.Tensor():
            return (found,), {}
        case tuple() | list():
            return tuple(found), {}
        case dict():
            return (), found
    raise SpecError(
        f"'{reference}' gives a {type(found).__name__}; inputs are a tensor, a tuple, or a dict of "
        "keyword arguments"
    )


def with_values(call: Call, model: nn.Module, seed: int = 0) -> Call:
    """The call with values in the place of tensors without data (on `meta`, or fake).

    Floating ones are normally distributed, integers are valid for each of the model's embeddings,
    booleans are true.
    """
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    bound = min(sizes, default=2)
    generator = torch.Generator().manual_seed(seed)

    def filled(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type != "meta" and type(tensor) is torch.Tensor:
            return tensor
        shape = tuple(tensor.shape)
        if tensor.dtype == torch.bool:
            return torch.ones(shape, dtype=torch.bool)
        if tensor.is_floating_point() or tensor.is_complex():
            made = torch.randn(shape, generator=generator).to(tensor.dtype)
            return made.requires_grad_(tensor.requires_grad)
        return torch.randint(bound, shape, generator=generator).to(tensor.dtype)

    args, kwargs = pytree.tree_map_only(torch.Tensor, filled, call)
    return args, kwargs


def parse_dtype(name: str, where: str = "") -> torch.dtype:
    """The type of a short name, or of PyTorch's own one.

    Raises:
        SpecError: it is unknown; the message says `where`.
    """
    dtype = DTYPES.get(name, getattr(torch, name, None))
    if not isinstance(dtype, torch.dtype):
        raise SpecError(f"unknown type '{name}'{where}; {hint(name, tuple(DTYPES))}")
    return dtype


def _imported(name: str, reference: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with _told(f"importing '{name}'", passing=ModuleNotFoundError):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise SpecError(
                f"importing '{name}' failed: {error} ({_place(error)}); is it installed here?"
            ) from error
        raise SpecError(
            f"there is no module '{error.name}' for '{reference}', seen from {folder}; run from "
            "the folder that holds it, or install it"
        ) from None


def _called(factory: Any, reference: str) -> Any:
    """Call without arguments."""
    try:
        needed = [
            parameter.name
            for parameter in inspect.signature(factory).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
    except (TypeError, ValueError):
        needed = []
    if needed:
        raise SpecError(
            f"'{reference}' needs {', '.join(needed)}, and is called without arguments here; name "
            "a function that fills them in, or a ready module"
        )
    with _told(f"calling '{reference}'"):
        return factory()


@contextlib.contextmanager
def _told(doing: str, passing: type[Exception] = SpecError) -> Iterator[None]:
    """Turn what the user's own code raises into a `SpecError` with its line."""
    try:
        yield
    except (KeyboardInterrupt, SpecError, passing):
        raise
    except SyntaxError as error:
        raise SpecError(f"{doing} failed: {error.msg} ({error.filename}:{error.lineno})") from error
    except BaseException as error:
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        raise SpecError(f"{doing} failed: {what} ({_place(error)})") from error


def _place(error: BaseException) -> str:
    """The innermost line of code that is no library's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if "site-packages" not in frame.filename
        and not frame.filename.startswith("<")
        and Path(frame.filename).parent != Path(__file__).parent
        and "importlib" not in frame.filename
    ]
    frame = (own or list(frames))[-1]
    path = Path(frame.filename)
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    line = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f"{path}:{frame.lineno}: {line}" if line else f"{path}:{frame.lineno}"


def _hugging_face(text: str, *, materialised: bool, seed: int) -> nn.Module:
    path = Path(text)
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise SpecError(f"there is no configuration at '{file}'; hf: takes a folder or a JSON file")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"'{file}' is not a JSON document: {error}") from error
    if not isinstance(raw, dict) or "model_type" not in raw:
        raise SpecError(f"'{file}' is no Hugging Face configuration: it has no 'model_type'")
    if importlib.util.find_spec("transformers") is None:
        raise SpecError("hf: models need transformers; install it: pip install 'partitioner[hf]'")
    with _told(f"building the model of '{file}'"):
        import transformers

        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        kind = str(raw["model_type"])
        if kind not in transformers.CONFIG_MAPPING:
            known = tuple(transformers.CONFIG_MAPPING)
            raise SpecError(f"unknown model_type '{kind}' in '{file}'; {hint(kind, known)}")
        config = transformers.CONFIG_MAPPING[kind].from_dict(raw)
        config.use_cache = False
        torch.manual_seed(seed)
        with torch.device("cpu" if materialised else "meta"):
            return _architecture(transformers, config, file)


def _architecture(transformers: Any, config: Any, file: Path) -> nn.Module:
    """The configuration's first architecture, else the usual model of its kind."""
    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if found is None:
            raise SpecError(
                f"transformers has no '{name}', which '{file}' names under 'architectures'"
            )
        made = found(config)
        if isinstance(made, nn.Module):
            return made
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoModel):
        if type(config) in auto._model_mapping:
            model: nn.Module = auto.from_config(config)
            return model
    raise CaptureError(f"transformers knows no model for '{config.model_type}' of '{file}'")
