"""Small models of many kinds, each with an example call: what every stage is tried on.

`ZOO[name].build()` gives a seeded module in train mode; `.args(batch)` and `.kwargs(batch)` give
its example call, seeded too. All are small: a training step takes well under 0.3 seconds.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SEED = 1234


@dataclass(frozen=True)
class Case:
    """A model and an example call.

    Attributes:
        name: its key in `ZOO`.
        build: a seeded module in train mode.
        args: positional arguments, for a batch size (a default is there).
        kwargs: keyword arguments, likewise.
        batched: other batch sizes than the default make sense.
        tags: what is special, such as `"hf"`, `"opaque"`, `"awkward"`.
    """

    name: str
    build: Callable[[], nn.Module]
    args: Callable[..., tuple[Any, ...]]
    kwargs: Callable[..., dict[str, Any]]
    batched: bool = True
    tags: frozenset[str] = field(default_factory=frozenset)


ZOO: dict[str, Case] = {}


def _no_kwargs(batch: int = 4) -> dict[str, Any]:
    return {}


def _no_args(batch: int = 4) -> tuple[Any, ...]:
    return ()


def seeded(function: Callable[..., Any], seed: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return function(*args, **kwargs)

    return call


def register(
    name: str,
    build: Callable[[], nn.Module],
    args: Callable[..., tuple[Any, ...]] = _no_args,
    kwargs: Callable[..., dict[str, Any]] = _no_kwargs,
    *,
    batched: bool = True,
    tags: tuple[str, ...] = (),
) -> None:
    """Put a case into `ZOO`."""
    ZOO[name] = Case(
        name,
        seeded(build, SEED),
        seeded(args, SEED + 1),
        seeded(kwargs, SEED + 2),
        batched,
        frozenset(tags),
    )


def images(channels: int = 3, size: int = 16) -> Callable[..., tuple[Any, ...]]:
    """Arguments: one batch of random square images."""
    return lambda batch=4: (torch.randn(batch, channels, size, size),)


def vectors(features: int = 16) -> Callable[..., tuple[Any, ...]]:
    """Arguments: one batch of random vectors."""
    return lambda batch=4: (torch.randn(batch, features),)


def sequences(length: int = 7, features: int = 16) -> Callable[..., tuple[Any, ...]]:
    """Arguments: one batch of random sequences of vectors."""
    return lambda batch=4: (torch.randn(batch, length, features),)


def tokens(length: int = 10, vocabulary: int = 50) -> Callable[..., tuple[Any, ...]]:
    """Arguments: one batch of random token sequences."""
    return lambda batch=4: (torch.randint(0, vocabulary, (batch, length)),)


# Everyday models


class SeqNet(nn.Module):
    """The tutorial's network: flatten, linear, log-softmax, linear."""

    def __init__(self, input_size: int = 784, hidden_size: int = 200, output_size: int = 10):
        super().__init__()
        self.lin1 = nn.Linear(input_size, hidden_size)
        self.lin2 = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(x.size(0), -1)
        x = self.lin1(x)
        x = F.log_softmax(x, dim=1)
        x = self.lin2(x)
        return x


register("seqnet", SeqNet, lambda batch=64: (torch.randn(batch, 1, 28, 28),))
register(
    "mlp",
    lambda: nn.Sequential(
        nn.Linear(16, 32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.GELU(),
        nn.Dropout(0.1),
        nn.Linear(32, 4),
    ),
    vectors(),
)


class ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResidualCNN(nn.Module):
    """A small residual network for images."""

    def __init__(self, width: int = 8, classes: int = 10):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.layer1 = nn.Sequential(ResidualBlock(width, width, 1), ResidualBlock(width, width, 1))
        self.layer2 = nn.Sequential(
            ResidualBlock(width, 2 * width, 2), ResidualBlock(2 * width, 2 * width, 1)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.stem(x)))
        x = torch.flatten(self.pool(x), 1)
        return self.fc(x)


register("residual_cnn", ResidualCNN, images())
register(
    "transformer_encoder",
    lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True),
        num_layers=2,
        enable_nested_tensor=False,
    ),
    sequences(),
)


class UNet(nn.Module):
    """Down and up again, with long skips."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.down1 = self.double(3, width)
        self.down2 = self.double(width, 2 * width)
        self.bottom = self.double(2 * width, 4 * width)
        self.pool = nn.MaxPool2d(2)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.join2 = self.double(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join1 = self.double(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    @staticmethod
    def double(in_channels: int, out_channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        skip1 = self.down1(x)
        skip2 = self.down2(self.pool(skip1))
        bottom = self.bottom(self.pool(skip2))
        up = self.join2(torch.cat([self.up2(bottom), skip2], dim=1))
        up = self.join1(torch.cat([self.up1(up), skip1], dim=1))
        return torch.sigmoid(self.head(up))


class InceptionBlock(nn.Module):
    def __init__(self, channels: int, width: int):
        super().__init__()
        self.branch1 = nn.Conv2d(channels, width, 1)
        self.branch3 = nn.Sequential(
            nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.branch5 = nn.Sequential(
            nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, width, 5, padding=2)
        )
        self.projection = nn.Conv2d(channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x, kernel_size=3, stride=1, padding=1)
        branches = [self.branch1(x), self.branch3(x), self.branch5(x), self.projection(pooled)]
        return F.relu(torch.cat(branches, 1))


class InceptionNet(nn.Module):
    """Parallel branches, joined, twice."""

    def __init__(self, width: int = 4, classes: int = 10):
        super().__init__()
        self.block1 = InceptionBlock(3, width)
        self.block2 = InceptionBlock(4 * width, width)
        self.classifier = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(x))
        return self.classifier(x.mean(dim=(2, 3)))


register("unet", UNet, images())
register("inception", InceptionNet, images(size=8))


class CausalSelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float, context: int, registered: bool):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.attention_dropout = nn.Dropout(dropout)
        self.residual_dropout = nn.Dropout(dropout)
        if registered:
            mask = torch.tril(torch.ones(context, context)).view(1, 1, context, context)
            self.register_buffer("mask", mask)
        else:
            self.mask = None

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.size()
        q, k, v = self.qkv(x).split(width, dim=2)
        q = q.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
        k = k.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
        v = v.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
        scores = (q @ k.transpose(-2, -1)) * (k.size(-1) ** -0.5)
        if self.mask is not None:
            mask = self.mask[:, :, :length, :length]
        else:
            mask = torch.tril(torch.ones(length, length, device=x.device))[None, None]
        scores = scores.masked_fill(mask == 0, float("-inf"))
        weights = self.attention_dropout(F.softmax(scores, dim=-1))
        y = (weights @ v).transpose(1, 2).contiguous().view(batch, length, width)
        return self.residual_dropout(self.projection(y))


class DecoderBlock(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float, context: int, registered: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, heads, dropout, context, registered)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {
                "up": nn.Linear(width, 4 * width),
                "act": nn.GELU(),
                "down": nn.Linear(4 * width, width),
                "dropout": nn.Dropout(dropout),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        hidden = self.norm2(x)
        for layer in self.mlp.values():
            hidden = layer(hidden)
        return x + hidden


class LanguageModel(nn.Module):
    """Shaped like GPT-2: learned positions, pre-norm blocks, a head tied to the embedding."""

    def __init__(
        self,
        vocabulary: int = 50,
        context: int = 32,
        width: int = 16,
        heads: int = 2,
        layers: int = 2,
        dropout: float = 0.1,
        registered_mask: bool = True,
    ):
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            DecoderBlock(width, heads, dropout, context, registered_mask) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Any:
        _, length = tokens.shape
        positions = torch.arange(0, length, dtype=torch.long, device=tokens.device)
        x = self.dropout(self.wte(tokens) + self.wpe(positions))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        if targets is None:
            return logits
        loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        return logits, loss


register("language_model", LanguageModel, tokens())
register("language_model_made_mask", lambda: LanguageModel(registered_mask=False), tokens())
register(
    "language_model_loss",
    LanguageModel,
    lambda batch=4: (torch.randint(0, 50, (batch, 10)), torch.randint(0, 50, (batch, 10))),
)


# Hugging Face models from small random configurations


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=64,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).train()


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    return BertForSequenceClassification(config).train()


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        attention_dropout=0.1,
    )
    return LlamaForCausalLM(config).train()


def _ids(batch: int = 2) -> dict[str, Any]:
    return {"input_ids": torch.randint(0, 64, (batch, 8))}


def _ids_no_cache(batch: int = 2) -> dict[str, Any]:
    return {**_ids(batch), "use_cache": False}


def _ids_mask(batch: int = 2) -> dict[str, Any]:
    mask = torch.ones(batch, 8, dtype=torch.long)
    mask[0, 6:] = 0
    return {**_ids(batch), "attention_mask": mask}


def _ids_labels(batch: int = 2) -> dict[str, Any]:
    return {**_ids(batch), "labels": torch.randint(0, 64, (batch, 8)), "use_cache": False}


def _ids_class(batch: int = 2) -> dict[str, Any]:
    return {**_ids_mask(batch), "labels": torch.randint(0, 2, (batch,))}


register("hf_gpt2", _gpt2, kwargs=_ids, tags=("hf",))
register("hf_gpt2_no_cache", _gpt2, kwargs=_ids_no_cache, tags=("hf",))
register("hf_gpt2_labels", _gpt2, kwargs=_ids_labels, tags=("hf",))
register("hf_bert", _bert, kwargs=_ids_mask, tags=("hf",))
register("hf_bert_labels", _bert, kwargs=_ids_class, tags=("hf",))
register("hf_llama", _llama, kwargs=_ids, tags=("hf",))
register("hf_llama_no_cache", _llama, kwargs=_ids_no_cache, tags=("hf",))
register("hf_llama_labels", _llama, kwargs=_ids_labels, tags=("hf",))


# Awkward habits


@dataclass
class Prediction:
    """An output that is no pytree to PyTorch."""

    logits: Tensor
    hidden: list[Tensor]
    note: str = "ok"


class Pair(NamedTuple):
    """An output with names."""

    first: Tensor
    second: Tensor


class DictInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(8, 16)
        self.text = nn.Linear(6, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        hidden = torch.tanh(self.image(batch["images"]) + self.text(batch["texts"]["words"]))
        return {"logits": self.head(hidden), "nested": {"hidden": hidden}, "count": 3}


class DataclassOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Prediction:
        hidden = self.first(x)
        return Prediction(self.second(hidden.relu()), [hidden, hidden * 2])


class NamedTupleOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Pair:
        y = self.layer(x)
        return Pair(y, y.sum(-1))


class InPlace(nn.Module):
    """`relu_()`, assignment into a slice, `+=`, a view changed and its base used afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h.relu_()
        h = h * 1.5
        h[:, 0] = 0
        h[:, 1:3] += 1
        left = h[:, :8]
        left.mul_(2)
        h.add_(x)
        total = torch.zeros(x.size(0), 16, device=x.device)
        total[:, :4] = h[:, 4:8]
        extra = torch.empty_like(h).detach()
        torch.add(x, 1, out=extra)
        return self.act(self.second(h)) + total + extra


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(16, 16)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.shared(x)).relu()
        x = self.norm(self.shared(x)).relu()
        return self.head(x)


class BlockCalledTwice(nn.Module):
    """A whole submodule, which is no leaf, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x + self.block(x))


class Tied(nn.Module):
    """An embedding, a linear layer and a functional use of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.mix = nn.Linear(16, 16)
        self.decoder = nn.Linear(16, 20, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.mix(self.embedding(tokens))
        return self.decoder(x) + F.linear(x, self.embedding.weight) + (x @ self.mix.weight).sum()


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.second = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.first(x)), p=0.3, training=self.training)
        return F.dropout(self.second(x), 0.1, self.training)


class AuxiliaryHead(nn.Module):
    """Another result in training than in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)
        self.auxiliary = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        hidden = torch.relu(self.body(x))
        if self.training:
            return self.head(hidden), self.auxiliary(hidden)
        return self.head(hidden)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 12, num_layers=2, batch_first=True)
        self.gru = nn.GRU(12, 12, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Any:
        y, (hidden, _) = self.lstm(x)
        y, _ = self.gru(y)
        return self.head(y[:, -1]), hidden


class Counter(nn.Module):
    """Buffers that `forward` changes: in place, and by assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.training:
            self.steps += 1
            self.mean.mul_(0.9).add_(0.1 * y.detach().mean(0))
        return y - self.mean


class Factories(nn.Module):
    """Tensors made in `forward` with no word on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        batch, features = x.shape
        y = self.layer(x) + torch.zeros(batch, features)
        y = y * torch.tensor(0.5) + torch.arange(features)
        y = torch.where(y > 0, y, torch.tensor(-0.1))
        y = torch.where(y > 1, 1.0, y)
        noise = torch.randn(batch, features)
        steps = torch.linspace(0, 1, features)
        return y + 0.01 * noise * steps + torch.ones_like(y) + y.new_full((features,), 2.0)


class NoGradPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = torch.tanh(self.frozen(x))
        return self.head(x + target.detach())


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.first(x) @ torch.ones(16, 16, device=x.device)
            h = torch.relu(h)
        return self.second(h.float())


class Pieces(nn.Module):
    """`chunk`, `split`, `unbind`, `topk`, `stack`, `einsum`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.layer(x).chunk(3, dim=-1)
        d, e = torch.split(a * b, [3, 5], dim=-1)
        rows = torch.stack([row * (i + 1) for i, row in enumerate(c.unbind(1))], dim=1)
        values, indices = torch.topk(rows, 2, dim=-1)
        weights = torch.einsum("bli,blj->bl", d, e)
        return values.sum(-1) * weights + indices.float().mean(-1) + x.max(-1).values


class PlainTensor(nn.Module):
    """Tensors that are attributes, but neither parameters nor buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.scale = torch.linspace(0.5, 1.5, 16)
        self.shifts = [torch.ones(16), torch.zeros(16)]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale + self.shifts[0] - self.shifts[1]


class KeywordOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor, *, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        y = self.layer(x) * scale
        return y if bias is None else y + bias


class MixedInputs(nn.Module):
    """A None, an integer, a boolean, a string, and a default."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        repeats: int,
        flip: bool = False,
        style: str = "sum",
        shift: float = 0.25,
    ) -> Tensor:
        for _ in range(repeats):
            x = self.layer(x) + shift
        if mask is not None:
            x = x * mask
        if flip:
            x = x.flip(-1)
        return x.sum(-1) if style == "sum" else x.mean(-1)


class ListInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, pyramid: list[Any], pair: tuple[Tensor, Tensor]) -> list[Tensor]:
        left, right = pair
        small, (middle, large) = pyramid
        return [self.layer(t) for t in (small, middle, large, left + right)]


class Gate(nn.Module):
    """Takes one of two ways by the data."""

    def __init__(self) -> None:
        super().__init__()
        self.positive = nn.Linear(16, 16)
        self.negative = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.positive(x)
        return self.negative(x)


class DataDependentPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(16, 16)
        self.gate = Gate()
        self.after = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.gate(self.before(x)))


class DataDependentRoot(nn.Module):
    """A branch on data in the model's own `forward`: no graph stands for it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if y.mean() > 0:
            return y * 2
        return y


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.1)) for _ in range(3)
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(x)


class CheckpointedFunction(nn.Module):
    """A checkpointed method, which uses the parameters of its module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)

    def body(self, x: Tensor, scale: float) -> Tensor:
        return self.second(torch.tanh(self.first(x)) * scale)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, 2.0, use_reentrant=False) + x


class CheckpointedInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = CheckpointedFunction()
        self.second = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class WeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.second = nn.utils.parametrizations.weight_norm(nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class FrozenPart(nn.Module):
    """A part that its user keeps in evaluation while the rest trains."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.2), nn.Linear(16, 4))
        self.train()

    def train(self, mode: bool = True) -> FrozenPart:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class SizeArithmetic(nn.Module):
    """Shapes computed from shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.reshape(batch * channels, height // 2, 2, width).mean(2)
        x = self.layer(x.view(batch, -1, 4))
        scale = 1.0 / (x.shape[1] * x.size(-1)) ** 0.5
        padded = F.pad(x, (0, 0, 0, x.shape[1] % 3))
        return padded[:, : x.shape[1] - 1] * scale + x.numel() / x.shape[0]


class HandSplit(nn.Module):
    """Written by hand for two GPUs; its layers are wherever `state` puts them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.to("cuda:0"))
        mask = torch.ones(16, device="cuda:1")
        x = F.relu(x).to("cuda:1", non_blocking=True) * mask
        return self.second(x).cuda(1).to(device="cuda:1", dtype=torch.float32)


class SharedSubmodule(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.decoder = self.encoder
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(x)))


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.up(x)))


class DenseExperts(nn.Module):
    """A soft mixture: all experts run, and a router weighs them."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, 3)
        self.experts = nn.ModuleList(Expert() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        return sum(weights[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))


register(
    "dict_input",
    DictInput,
    lambda batch=4: ({"images": torch.randn(batch, 8), "texts": {"words": torch.randn(batch, 6)}},),
    tags=("awkward",),
)
register("dataclass_output", DataclassOutput, vectors(), tags=("awkward",))
register("named_tuple_output", NamedTupleOutput, vectors(), tags=("awkward",))
register("in_place", InPlace, vectors(), tags=("awkward",))
register("called_twice", CalledTwice, vectors(), tags=("awkward",))
register("block_called_twice", BlockCalledTwice, vectors(), tags=("awkward",))
register("tied", Tied, tokens(5, 20), tags=("awkward",))
register("functional_dropout", FunctionalDropout, vectors(), tags=("awkward",))
register("auxiliary_head", AuxiliaryHead, vectors(), tags=("awkward",))
register("recurrent", Recurrent, sequences(), tags=("awkward",))
register("counter", Counter, vectors(), tags=("awkward",))
register("factories", Factories, vectors(), tags=("awkward",))
register("no_grad_part", NoGradPart, vectors(), tags=("awkward",))
register("autocast", Autocast, vectors(), tags=("awkward",))
register("pieces", Pieces, sequences(), tags=("awkward",))
register("plain_tensor", PlainTensor, vectors(), tags=("awkward",))
register(
    "keyword_only",
    KeywordOnly,
    vectors(),
    lambda batch=4: {"scale": torch.randn(16)},
    tags=("awkward",),
)
register(
    "mixed_inputs",
    MixedInputs,
    lambda batch=4: (torch.randn(batch, 16), None, 2, True),
    lambda batch=4: {"style": "mean"},
    tags=("awkward",),
)
register(
    "list_input",
    ListInput,
    lambda batch=4: (
        [torch.randn(batch, 8), (torch.randn(batch, 2, 8), torch.randn(batch, 4, 8))],
        (torch.randn(batch, 8), torch.randn(batch, 8)),
    ),
    tags=("awkward",),
)
register("data_dependent_part", DataDependentPart, vectors(), tags=("awkward", "opaque"))
register("data_dependent_root", DataDependentRoot, vectors(), tags=("awkward", "opaque"))
register("checkpointed", Checkpointed, vectors(), tags=("awkward",))
register("checkpointed_inside", CheckpointedInside, vectors(), tags=("awkward",))
register("weight_norm", WeightNorm, vectors(), tags=("awkward",))
register("frozen_part", FrozenPart, vectors(), tags=("awkward",))
register("size_arithmetic", SizeArithmetic, lambda batch=4: (torch.randn(batch, 3, 8, 4),))
register("shared_submodule", SharedSubmodule, vectors(), tags=("awkward",))
register("dense_experts", DenseExperts, vectors())

# A model whose own text names GPUs: it runs on virtual GPUs only, and is captured anywhere.
HAND_SPLIT = Case("hand_split", seeded(HandSplit, SEED), seeded(vectors(), SEED + 1), _no_kwargs)


def run(case: Case, model: nn.Module | None = None, batch: int | None = None, seed: int = 0) -> Any:
    """The case's output, with the seed set just before the call."""
    model = case.build() if model is None else model
    sizes = {} if batch is None else {"batch": batch}
    torch.manual_seed(seed)
    return model(*case.args(**sizes), **copy.copy(case.kwargs(**sizes)))
