"""Architectures of Hugging Face transformers, small and random: a larger zoo than `ZOO`.

`ARCHITECTURES[name]` is a `Case` like those of `tests.zoo`; nothing is imported from transformers
before a case is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo import SEED, Case, seeded

ARCHITECTURES: dict[str, Case] = {}

VOCABULARY = 64
LENGTH = 12
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
SEQ2SEQ: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
IMAGE = {"image_size": 32, "patch_size": 8}
STAGES = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
EARS = {
    "conv_dim": (16, 16),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
}
VISION_PART = {
    **{name: SIZES[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    "intermediate_size": 64,
    **IMAGE,
}

Inputs = Callable[..., dict[str, Any]]


def ids(batch: int) -> dict[str, Any]:
    return {"input_ids": torch.randint(3, VOCABULARY, (batch, LENGTH))}


def masked(batch: int) -> dict[str, Any]:
    return {**ids(batch), "attention_mask": torch.ones(batch, LENGTH, dtype=torch.long)}


def pairs(batch: int) -> dict[str, Any]:
    return {**ids(batch), "decoder_input_ids": torch.randint(3, VOCABULARY, (batch, 8))}


def pixels(batch: int) -> dict[str, Any]:
    return {"pixel_values": torch.randn(batch, 3, 32, 32)}


def sound(batch: int) -> dict[str, Any]:
    return {"input_values": torch.randn(batch, 2000)}


def described(batch: int) -> dict[str, Any]:
    return {**ids(batch), **pixels(batch)}


def register(kind: str, name: str, inputs: Inputs, model: str, **options: Any) -> None:
    """Put an architecture into `ARCHITECTURES`.

    Args:
        kind: the group in which the table shows it.
        name: as people call it.
        inputs: keyword arguments for a batch size.
        model: `"PREFIX:SUFFIX"` for the class `PREFIXSUFFIX` with the configuration
            `PREFIXConfig`, or `"PREFIX:SUFFIX:CONFIGURATION"`.
        options: of the configuration.
    """
    prefix, suffix, *others = model.split(":")

    def build() -> nn.Module:
        transformers = importlib.import_module("transformers")
        config = getattr(transformers, others[0] if others else f"{prefix}Config")(**options)
        built: nn.Module = getattr(transformers, prefix + suffix)(config)
        return built.train()

    def no_args(batch: int = 2) -> tuple[Any, ...]:
        return ()

    def kwargs(batch: int = 2) -> dict[str, Any]:
        return inputs(batch)

    ARCHITECTURES[name] = Case(
        name, seeded(build, SEED), no_args, seeded(kwargs, SEED + 2), tags=frozenset({"hf", kind})
    )


def _decoders() -> None:
    def add(name: str, model: str, **options: Any) -> None:
        register("decoder", name, ids, model, **{**SIZES, **options})

    ends = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **ends}
    plain: dict[str, dict[str, Any]] = {
        "GPT-2|GPT2:LMHeadModel": gpt,
        "GPTBigCode|GPTBigCode:ForCausalLM": gpt,
        "GPT-J|GPTJ:ForCausalLM": {**gpt, "rotary_dim": 4},
        "CodeGen|CodeGen:ForCausalLM": {**gpt, "rotary_dim": 4},
        "GPT-Neo|GPTNeo:ForCausalLM": {
            **ends,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
            "window_size": 8,
        },
        "BLOOM|Bloom:ForCausalLM": {**ends, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "MPT|Mpt:ForCausalLM": {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 4,
            "max_seq_len": 64,
        },
    }
    for key, options in plain.items():
        name, model = key.split("|")
        register("decoder", name, ids, model, **options)
    add("GPT-NeoX", "GPTNeoX:ForCausalLM")
    add("OPT", "OPT:ForCausalLM", ffn_dim=64, word_embed_proj_dim=32)
    add("Falcon", "Falcon:ForCausalLM")
    add("Phi", "Phi:ForCausalLM")
    add("Phi-3", "Phi3:ForCausalLM")
    for name, prefix in {
        "Llama": "Llama",
        "Mistral": "Mistral",
        "Qwen2": "Qwen2",
        "Qwen3": "Qwen3",
        "Gemma": "Gemma",
        "Gemma 2": "Gemma2",
        "StableLM": "StableLm",
        "Cohere": "Cohere",
        "OLMo": "Olmo",
        "OLMo 2": "Olmo2",
        "StarCoder2": "Starcoder2",
        "Granite": "Granite",
        "SmolLM3": "SmolLM3",
        "GLM": "Glm",
        "Nemotron": "Nemotron",
    }.items():
        add(name, f"{prefix}:ForCausalLM", **GROUPED)
    add("Gemma 3", "Gemma3:ForCausalLM:Gemma3TextConfig", **GROUPED)


def _experts() -> None:
    def add(name: str, model: str, **options: Any) -> None:
        register("mixture of experts", name, ids, model, **{**SIZES, **options})

    add("Mixtral", "Mixtral:ForCausalLM", **GROUPED, num_local_experts=4)
    add(
        "Qwen2-MoE", "Qwen2Moe:ForCausalLM", num_key_value_heads=2, num_experts=4, **EXPERTS,
        shared_expert_intermediate_size=32,
    )  # fmt: skip
    add("Qwen3-MoE", "Qwen3Moe:ForCausalLM", **GROUPED, num_experts=4, **EXPERTS)
    add("OLMoE", "Olmoe:ForCausalLM", num_key_value_heads=2, num_experts=4, num_experts_per_tok=2)
    add(
        "DeepSeek-V3", "DeepseekV3:ForCausalLM", num_key_value_heads=4, n_routed_experts=4,
        n_group=2, topk_group=1, q_lora_rank=16, kv_lora_rank=8, qk_rope_head_dim=4, v_head_dim=8,
        qk_nope_head_dim=4, first_k_dense_replace=1, **EXPERTS,
    )  # fmt: skip


def _encoders() -> None:
    def add(name: str, model: str, **options: Any) -> None:
        register("encoder", name, masked, model, **{**SIZES, **options})

    for name, model in {
        "BERT": "Bert:ForMaskedLM",
        "RoBERTa": "Roberta:ForMaskedLM",
        "XLM-R": "XLMRoberta:ForMaskedLM",
        "ELECTRA": "Electra:ForMaskedLM",
        "MPNet": "MPNet:ForMaskedLM",
        "DeBERTa-v2": "DebertaV2:ForMaskedLM",
    }.items():
        add(name, model)
    add("ALBERT", "Albert:ForMaskedLM", embedding_size=16)
    add("ModernBERT", "ModernBert:ForMaskedLM", cls_token_id=1, sep_token_id=2)
    add("Longformer", "Longformer:ForMaskedLM", attention_window=[4, 4])
    add("BigBird", "BigBird:ForMaskedLM", attention_type="original_full")
    register(
        "encoder", "DistilBERT", masked, "DistilBert:ForMaskedLM", vocab_size=VOCABULARY, dim=32,
        n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64,
    )  # fmt: skip


def _encoder_decoders() -> None:
    for name, model in {
        "BART": "Bart:ForConditionalGeneration",
        "mBART": "MBart:ForConditionalGeneration",
        "Pegasus": "Pegasus:ForConditionalGeneration",
        "Marian": "Marian:MTModel:MarianConfig",
        "M2M100": "M2M100:ForConditionalGeneration",
    }.items():
        register("encoder-decoder", name, pairs, model, **SEQ2SEQ)
    ends = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1}
    for name, model in {
        "T5": "T5:ForConditionalGeneration",
        "mT5": "MT5:ForConditionalGeneration",
    }.items():
        register(
            "encoder-decoder", name, pairs, model, vocab_size=VOCABULARY, d_model=32, d_kv=8,
            d_ff=64, num_layers=2, num_heads=4, **ends,
        )  # fmt: skip
    longest = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64}
    register(
        "encoder-decoder", "LED", pairs, "LED:ForConditionalGeneration",
        **{**SEQ2SEQ, **longest}, attention_window=[4, 4],
    )  # fmt: skip


def _vision() -> None:
    def add(name: str, model: str, **options: Any) -> None:
        register("vision", name, pixels, model, **options)

    for name, prefix in {"ViT": "ViT", "DeiT": "Deit", "BEiT": "Beit", "DINOv2": "Dinov2"}.items():
        model = "DeiT" if prefix == "Deit" else prefix
        add(name, f"{model}:ForImageClassification", **VISION_PART)
    add("Swin", "Swin:ForImageClassification", image_size=32, patch_size=4, **STAGES)
    add("Swin v2", "Swinv2:ForImageClassification", image_size=32, patch_size=4, **STAGES)
    widths = {"hidden_sizes": [16, 32], "depths": [1, 1]}
    add("ConvNeXt", "ConvNext:ForImageClassification", num_stages=2, **widths)
    add("ResNet", "ResNet:ForImageClassification", embedding_size=16, **widths)
    add(
        "SegFormer", "Segformer:ForSemanticSegmentation", num_encoder_blocks=2, depths=[1, 1],
        sr_ratios=[2, 1], hidden_sizes=[16, 32], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16,
    )  # fmt: skip
    add(
        "MobileViT", "MobileViT:ForImageClassification", image_size=32, hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32], patch_size=2, num_attention_heads=4,
    )  # fmt: skip


def _audio() -> None:
    ears = {**{key: SIZES[key] for key in SIZES if key != "max_position_embeddings"}, **EARS}
    register("audio", "Wav2Vec2", sound, "Wav2Vec2:ForCTC", **ears)
    register("audio", "HuBERT", sound, "Hubert:ForCTC", **ears)
    register("audio", "WavLM", sound, "WavLM:ForCTC", **ears)

    def spectrogram(batch: int) -> dict[str, Any]:
        return {"input_values": torch.randn(batch, 32, 16)}

    def spoken(batch: int) -> dict[str, Any]:
        return {
            "input_features": torch.randn(batch, 8, 32),
            "decoder_input_ids": torch.randint(3, VOCABULARY, (batch, 8)),
        }

    body = {key: VISION_PART[key] for key in VISION_PART if key not in IMAGE}
    register(
        "audio", "AST", spectrogram, "AST:ForAudioClassification", **body, patch_size=8,
        frequency_stride=8, time_stride=8, max_length=32, num_mel_bins=16,
    )  # fmt: skip
    whisper = {key: SEQ2SEQ[key] for key in SEQ2SEQ if key != "max_position_embeddings"}
    register(
        "audio", "Whisper", spoken, "Whisper:ForConditionalGeneration", **whisper, num_mel_bins=8,
        max_source_positions=16, max_target_positions=64,
    )  # fmt: skip


def _multimodal() -> None:
    text = {key: SIZES[key] for key in SIZES if key != "vocab_size"} | {"vocab_size": VOCABULARY}
    parts = {"text_config": text, "vision_config": VISION_PART}
    register("multimodal", "CLIP", described, "CLIP:Model", **parts, projection_dim=16)
    register("multimodal", "SigLIP", described, "Siglip:Model", **parts)

    def seen(batch: int) -> dict[str, Any]:
        start = torch.full((batch, 16), VOCABULARY - 1)
        return {**pixels(batch), "input_ids": torch.cat([start, ids(batch)["input_ids"] % 60], 1)}

    register(
        "multimodal", "LLaVA", seen, "Llava:ForConditionalGeneration",
        text_config={"model_type": "llama", **SIZES, "num_key_value_heads": 2},
        vision_config={"model_type": "clip_vision_model", **VISION_PART, "projection_dim": 16},
        image_token_index=VOCABULARY - 1,
    )  # fmt: skip


def _state_spaces() -> None:
    ends = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    small = {**ends, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
    register("state space", "Mamba", ids, "Mamba:ForCausalLM", **small)
    register("state space", "FalconMamba", ids, "FalconMamba:ForCausalLM", **small)
    register(
        "state space", "Mamba 2", ids, "Mamba2:ForCausalLM", **small, num_heads=8, head_dim=8,
        n_groups=2, chunk_size=4,
    )  # fmt: skip


for fill in (
    _decoders,
    _experts,
    _encoders,
    _encoder_decoders,
    _vision,
    _audio,
    _multimodal,
    _state_spaces,
):
    fill()
