"""Models of torchvision, timm and diffusers, small and random, where these are installed.

`LIBRARIES[library][name]` is a `Case` like those of `tests.zoo`; nothing is imported from a library
before one of its cases is built. None is downloaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo import SEED, Case, seeded

LIBRARIES: dict[str, dict[str, Case]] = {"torchvision": {}, "timm": {}, "diffusers": {}}

CLASSES = 6
SIZE = 32

Build = Callable[[], nn.Module]
Inputs = Callable[[int], tuple[Any, ...]]
Named = Callable[[int], dict[str, Any]]


def images(size: int = SIZE, channels: int = 3) -> Inputs:
    """Arguments: a batch of random square images."""
    return lambda batch: (torch.randn(batch, channels, size, size),)


def register(
    library: str,
    name: str,
    build: Build,
    args: Inputs = lambda batch: (),
    kwargs: Named = lambda batch: {},
    *,
    batched: bool = True,
) -> None:
    """Put a model into `LIBRARIES`."""

    def positional(batch: int = 2) -> tuple[Any, ...]:
        return args(batch)

    def named(batch: int = 2) -> dict[str, Any]:
        return kwargs(batch)

    LIBRARIES[library][name] = Case(
        name,
        seeded(lambda: build().train(), SEED),
        seeded(positional, SEED + 1),
        seeded(named, SEED + 2),
        batched,
        frozenset({library}),
    )


# torchvision


def _models(module: str = "") -> Any:
    return importlib.import_module(f"torchvision.models{module}")


def _resnet() -> nn.Module:
    return _models().ResNet(_models(".resnet").BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)


def _efficientnet() -> nn.Module:
    module = _models(".efficientnet")
    settings = [
        module.MBConvConfig(1, 3, 1, 16, 8, 1),
        module.MBConvConfig(4, 3, 2, 8, 16, 2),
        module.FusedMBConvConfig(4, 3, 2, 16, 24, 2),
    ]
    return module.EfficientNet(settings, dropout=0.2, num_classes=CLASSES)


def _densenet(**options: Any) -> nn.Module:
    return _models().DenseNet(8, (2, 2), 16, drop_rate=0.1, num_classes=CLASSES, **options)


def _tv_swin(version: str = "") -> nn.Module:
    module = _models(".swin_transformer")
    options: dict[str, Any] = {}
    if version:
        options = {
            "block": module.SwinTransformerBlockV2,
            "downsample_layer": module.PatchMergingV2,
        }
    return module.SwinTransformer(
        [2, 2], 16, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.1, num_classes=CLASSES,
        **options,
    )  # fmt: skip


def _convnext() -> nn.Module:
    module = _models(".convnext")
    settings = [module.CNBlockConfig(16, 32, 2), module.CNBlockConfig(32, None, 2)]
    return module.ConvNeXt(settings, stochastic_depth_prob=0.1, num_classes=CLASSES)


def _fcn() -> nn.Module:
    module = _models(".segmentation.fcn")
    layers = {"layer4": "out", "layer3": "aux"}
    body = _models("._utils").IntermediateLayerGetter(_resnet(), layers)
    return module.FCN(body, module.FCNHead(512, CLASSES), module.FCNHead(256, CLASSES))


def _deeplab() -> nn.Module:
    module = _models(".segmentation.deeplabv3")
    body = _models("._utils").IntermediateLayerGetter(_resnet(), {"layer4": "out"})
    return module.DeepLabV3(body, module.DeepLabHead(512, CLASSES))


class _Backbone(nn.Sequential):
    """What torchvision's detectors take for a backbone."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 32, 3, 2, 1)
        )


def _detector(name: str, **options: Any) -> nn.Module:
    module = _models(".detection")
    anchors = importlib.import_module("torchvision.models.detection.anchor_utils")
    generator = anchors.AnchorGenerator(((16,),), ((1.0,),))
    key = "rpn_anchor_generator" if name.endswith("RCNN") else "anchor_generator"
    sizes = {"min_size": 64, "max_size": 64}
    return getattr(module, name)(_Backbone(), 3, **{key: generator}, **sizes, **options)


def _photographs(batch: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    boxes = torch.tensor([[4.0, 4.0, 30.0, 34.0], [20.0, 10.0, 50.0, 44.0]])
    return (
        [torch.rand(3, 56 + 8 * (index % 2), 64) for index in range(batch)],
        [{"boxes": boxes.clone(), "labels": torch.tensor([1, 2])} for _ in range(batch)],
    )


def _torchvision() -> None:
    def add(name: str, build: Build, args: Inputs = images(), **options: Any) -> None:  # noqa: B008
        register("torchvision", name, build, args, **options)

    add("ResNet (torchvision)", _resnet)
    add(
        "MobileNet v3",
        lambda: _models().mobilenet_v3_small(weights=None, width_mult=0.5, num_classes=CLASSES),
    )
    add("EfficientNet", _efficientnet)
    add("DenseNet", _densenet)
    add("DenseNet checkpointed", lambda: _densenet(memory_efficient=True))
    add(
        "GoogLeNet",
        lambda: _models().GoogLeNet(num_classes=CLASSES, init_weights=False),
        images(64),
    )
    add("ShuffleNet v2", lambda: _models().shufflenet_v2_x0_5(weights=None, num_classes=CLASSES))
    add(
        "ViT (torchvision)",
        lambda: _models().VisionTransformer(32, 8, 2, 2, 32, 64, 0.1, 0.1, num_classes=CLASSES),
    )
    add("Swin (torchvision)", _tv_swin)
    add("Swin v2 (torchvision)", lambda: _tv_swin("v2"))
    add("ConvNeXt (torchvision)", _convnext)
    add(
        "MaxViT",
        lambda: _models().MaxVit(
            (64, 64), 8, 2, [8, 16], [1, 1], 4, 0.1, num_classes=CLASSES
        ),
        images(64),
    )  # fmt: skip
    add("FCN", _fcn, images(64))
    add("DeepLab v3", _deeplab, images(64))
    add("Faster R-CNN", lambda: _detector("FasterRCNN"), _photographs)
    add("RetinaNet", lambda: _detector("RetinaNet"), _photographs)
    add("FCOS", lambda: _detector("FCOS"), _photographs)
    add(
        "RAFT",
        lambda: _models(".optical_flow").raft_small(weights=None),
        lambda batch: (torch.randn(batch, 3, 128, 128), torch.randn(batch, 3, 128, 128), 2),
    )


# timm


def _timm() -> None:
    def add(name: str, model: str, size: int = SIZE, **options: Any) -> None:
        def build() -> nn.Module:
            library = importlib.import_module("timm")
            if hasattr(library.models, model):
                made: nn.Module = getattr(library.models, model)(num_classes=CLASSES, **options)
                return made
            return library.create_model(model, pretrained=False, num_classes=CLASSES, **options)

        register("timm", f"{name} (timm)", build, images(size))

    vit: dict[str, Any] = {
        "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2,
    }  # fmt: skip
    mixer = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_blocks": 2}
    add("ResNet", "test_resnet")
    add("EfficientNet", "test_efficientnet", drop_path_rate=0.1)
    add("MobileNet v4", "mobilenetv4_conv_small_050")
    add("ConvNeXt", "convnext_atto", dims=(8, 8, 16, 16), depths=(1, 1, 1, 1))
    add("NFNet", "test_nfnet")
    add("RegNet", "regnety_002")
    add("ViT", "vit_tiny_patch16_224", **vit, drop_path_rate=0.1)
    add("ViT of relative positions", "vit_relpos_small_patch16_224", **vit)
    add("DeiT distilled", "deit_tiny_distilled_patch16_224", **vit)
    add(
        "Swin", "swin_tiny_patch4_window7_224", img_size=32, patch_size=4, window_size=4,
        embed_dim=16, depths=(2, 2), num_heads=(2, 4),
    )  # fmt: skip
    add("MLP-Mixer", "MlpMixer", **mixer)
    add("BEiT", "beit_base_patch16_224", **vit)
    add("EVA-02", "eva02_tiny_patch14_224", **vit)
    add("XCiT", "xcit_nano_12_p16_224", img_size=32, embed_dim=32, depth=2, num_heads=2)
    add("PoolFormer", "MetaFormer", dims=(8, 16), depths=(1, 1))
    add("ViT pooled by attention", "test_vit3", img_size=32)


# diffusers


def _steps(batch: int) -> Tensor:
    return torch.randint(0, 1000, (batch,))


def _diffusers() -> None:
    def add(name: str, model: str, kwargs: Named, **options: Any) -> None:
        def build() -> nn.Module:
            made: nn.Module = getattr(importlib.import_module("diffusers"), model)(**options)
            return made

        register("diffusers", name, build, kwargs=kwargs)

    def noise(batch: int) -> dict[str, Any]:
        return {"sample": torch.randn(batch, 3, 16, 16), "timestep": _steps(batch)}

    def latents(batch: int, channels: int = 4, words: int = 16) -> dict[str, Any]:
        return {
            "sample": torch.randn(batch, channels, 16, 16),
            "timestep": _steps(batch),
            "encoder_hidden_states": torch.randn(batch, 5, words),
        }

    blocks: dict[str, Any] = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    crossed: dict[str, Any] = {
        **blocks,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
    }
    around = {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    add(
        "UNet2D", "UNet2DModel", noise, sample_size=16, **blocks, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    add("UNet of Stable Diffusion", "UNet2DConditionModel", latents, **crossed, **around)
    add(
        "UNet of SDXL", "UNet2DConditionModel",
        lambda batch: {
            **latents(batch),
            "added_cond_kwargs": {
                "text_embeds": torch.randn(batch, 8),
                "time_ids": torch.rand(batch, 6),
            },
        },
        **crossed, **around, use_linear_projection=True, transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
    )  # fmt: skip
    add(
        "ControlNet", "ControlNetModel",
        lambda batch: {**latents(batch), "controlnet_cond": torch.randn(batch, 3, 32, 32)},
        **crossed, conditioning_embedding_out_channels=(8, 16),
    )  # fmt: skip
    encoded: dict[str, Any] = {
        **blocks,
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "latent_channels": 4,
    }
    add(
        "AutoencoderKL", "AutoencoderKL",
        lambda batch: {"sample": torch.randn(batch, 3, 16, 16)}, **encoded,
    )  # fmt: skip
    add(
        "VQModel", "VQModel", lambda batch: {"sample": torch.randn(batch, 3, 16, 16)},
        **encoded, num_vq_embeddings=16,
    )  # fmt: skip
    small = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
    seen = {"sample_size": 8, "patch_size": 2, "in_channels": 4}

    def hidden(batch: int) -> dict[str, Any]:
        return {"hidden_states": torch.randn(batch, 4, 8, 8), "timestep": _steps(batch)}

    def worded(batch: int) -> dict[str, Any]:
        return {**hidden(batch), "encoder_hidden_states": torch.randn(batch, 5, 16)}

    add(
        "DiT", "DiTTransformer2DModel",
        lambda batch: {**hidden(batch), "class_labels": torch.randint(0, 10, (batch,))},
        **small, **seen, out_channels=4, num_embeds_ada_norm=1000, norm_num_groups=4,
    )  # fmt: skip
    add(
        "PixArt", "PixArtTransformer2DModel",
        lambda batch: {
            **worded(batch),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
        **small, **seen, out_channels=8, cross_attention_dim=16, caption_channels=16,
        use_additional_conditions=False, norm_num_groups=4,
    )  # fmt: skip
    add(
        "Stable Diffusion 3", "SD3Transformer2DModel",
        lambda batch: {**worded(batch), "pooled_projections": torch.randn(batch, 12)},
        **small, **seen, out_channels=4, joint_attention_dim=16, caption_projection_dim=16,
        pooled_projection_dim=12, pos_embed_max_size=8,
    )  # fmt: skip
    add(
        "Flux", "FluxTransformer2DModel",
        lambda batch: {
            "hidden_states": torch.randn(batch, 16, 4),
            "encoder_hidden_states": torch.randn(batch, 5, 16),
            "pooled_projections": torch.randn(batch, 12),
            "timestep": torch.rand(batch),
            "img_ids": torch.zeros(16, 3),
            "txt_ids": torch.zeros(5, 3),
            "guidance": torch.rand(batch),
        },
        num_layers=1, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        in_channels=4, joint_attention_dim=16, pooled_projection_dim=12, guidance_embeds=True,
        axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    add(
        "Wan", "WanTransformer3DModel",
        lambda batch: {
            "hidden_states": torch.randn(batch, 4, 2, 8, 8),
            "timestep": _steps(batch),
            "encoder_hidden_states": torch.randn(batch, 5, 16),
        },
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4,
        out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=16,
    )  # fmt: skip
    add(
        "UNet of Stable Video Diffusion", "UNetSpatioTemporalConditionModel",
        lambda batch: {
            "sample": torch.randn(batch, 2, 8, 16, 16),
            "timestep": _steps(batch),
            "encoder_hidden_states": torch.randn(batch, 1, 16),
            "added_time_ids": torch.rand(batch, 3),
        },
        block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=16,
        num_attention_heads=(2, 2), num_frames=2, addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    )  # fmt: skip


for fill in (_torchvision, _timm, _diffusers):
    fill()
