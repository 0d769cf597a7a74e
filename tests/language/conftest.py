"""Tiny language models of both kinds, with tokenizers made on the spot."""

import pytest
import torch
import transformers

from attnchain.models import LoadedText
from attnchain.testing.models.tokenizers import bert_tokenizer, gpt2_tokenizer

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "initializer_range": 0.8,
}


def loaded(kind, seed=3):
    """A random model of a kind, in the form `load` returns."""
    torch.manual_seed(seed)
    tokenizer = gpt2_tokenizer() if kind == "llama" else bert_tokenizer()
    stem, name = {
        "llama": ("Llama", "LlamaForCausalLM"),
        "bert": ("Bert", "BertModel"),
    }[kind]
    config = getattr(transformers, f"{stem}Config")(
        vocab_size=len(tokenizer), attn_implementation="sdpa", **SIZES
    )
    model = getattr(transformers, name)(config).eval()
    return LoadedText(f"tiny {kind}", "Random weights.", model, tokenizer)


@pytest.fixture
def llama():
    return loaded("llama")


@pytest.fixture
def bert():
    return loaded("bert")
