"""A small GPT-2 of Hugging Face with random weights, which reads bytes.

`partitioner plan examples.gpt2:model --inputs examples.gpt2:inputs --devices 2x40MiB`; and
`python -m examples.gpt2` fine-tunes it on two unequal virtual GPUs.
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

SEQUENCE = 64
"""Bytes that it reads at once."""

model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=128,
        n_positions=SEQUENCE,
        n_embd=192,
        n_layer=6,
        n_head=6,
        use_cache=False,
        loss_type="ForCausalLM",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
)


def inputs() -> dict[str, torch.Tensor]:
    """An example call: eight sequences, which are their own labels."""
    ids = torch.zeros(8, SEQUENCE, dtype=torch.long)
    return {"input_ids": ids, "labels": ids.clone()}
