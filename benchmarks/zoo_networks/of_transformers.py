"""Flax models of `transformers` 4.57."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import transformers

from zoo_networks import Example

VOCABULARY = 11
LENGTH = 6
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}


def precision() -> Any:
    """In which the models compute, whatever their parameters are."""
    return jnp.result_type(float)


def tokens() -> np.ndarray:
    """Two sequences."""
    return np.random.default_rng(0).integers(3, VOCABULARY, (2, LENGTH)).astype(np.int32)


def images() -> np.ndarray:
    """Two images."""
    return np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)


def build(name: str, config: Any, inputs: Any, *, argument: str = "input_ids") -> Example:
    """A model by its class's name; its logits."""
    model = getattr(transformers, name)(config, seed=0, dtype=precision())

    # Models that have no dropout take no `train`; others call it `deterministic`.
    options = {} if name.startswith("FlaxOPT") else {"train": False}

    def apply(params: Any, inputs: Any) -> Any:
        return model(**{argument: inputs}, params=params, **options).logits

    return Example(apply, model.params, inputs)


def of_text(name: str, config: str, **options: Any) -> Example:
    """A model of tokens, in one of the sizes above unless said otherwise."""
    made = getattr(transformers, config)(**{**SIZES, **options})
    return build(name, made, tokens())


def of_images(name: str, config: str, **options: Any) -> Example:
    """A model of images."""
    made = getattr(transformers, config)(num_labels=5, **options)
    return build(name, made, images(), argument="pixel_values")


def of_translation(name: str, config: str, **options: Any) -> Example:
    """An encoder and a decoder, which read the same tokens."""
    made = getattr(transformers, config)(**options)
    model = getattr(transformers, name)(made, seed=0, dtype=precision())

    def apply(params: Any, inputs: Any) -> Any:
        return model(input_ids=inputs, decoder_input_ids=inputs, params=params, train=False).logits

    return Example(apply, model.params, tokens())


VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 16,
}
NETWORKS = {
    "Bert": functools.partial(of_text, "FlaxBertForSequenceClassification", "BertConfig"),
    "Roberta": functools.partial(of_text, "FlaxRobertaForMaskedLM", "RobertaConfig"),
    "Electra": functools.partial(
        of_text, "FlaxElectraForMaskedLM", "ElectraConfig", embedding_size=8
    ),
    "Albert": functools.partial(
        of_text, "FlaxAlbertForSequenceClassification", "AlbertConfig", embedding_size=8
    ),
    "DistilBert": functools.partial(
        of_text,
        "FlaxDistilBertForSequenceClassification",
        "DistilBertConfig",
        dim=16,
        n_layers=2,
        n_heads=4,
        hidden_dim=24,
    ),
    "GPT2": functools.partial(
        of_text, "FlaxGPT2LMHeadModel", "GPT2Config", n_embd=16, n_layer=2, n_head=4, n_inner=24
    ),
    "GPTNeo": functools.partial(
        of_text,
        "FlaxGPTNeoForCausalLM",
        "GPTNeoConfig",
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
    ),
    "GPTJ": functools.partial(
        of_text,
        "FlaxGPTJForCausalLM",
        "GPTJConfig",
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_inner=24,
        rotary_dim=2,
    ),
    "OPT": functools.partial(
        of_text, "FlaxOPTForCausalLM", "OPTConfig", ffn_dim=24, word_embed_proj_dim=16
    ),
    "Bloom": functools.partial(of_text, "FlaxBloomForCausalLM", "BloomConfig", n_layer=2, n_head=4),
    "Llama, grouped queries": functools.partial(
        of_text, "FlaxLlamaForCausalLM", "LlamaConfig", num_key_value_heads=2
    ),
    "Mistral, grouped queries": functools.partial(
        of_text, "FlaxMistralForCausalLM", "MistralConfig", num_key_value_heads=2
    ),
    "Gemma": functools.partial(
        of_text, "FlaxGemmaForCausalLM", "GemmaConfig", num_key_value_heads=2, head_dim=4
    ),
    "Bart": functools.partial(
        of_translation,
        "FlaxBartForConditionalGeneration",
        "BartConfig",
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=16,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    ),
    "ViT": functools.partial(of_images, "FlaxViTForImageClassification", "ViTConfig", **VISION),
    "Dinov2": functools.partial(
        of_images, "FlaxDinov2ForImageClassification", "Dinov2Config", mlp_ratio=2, **VISION
    ),
    "Beit": functools.partial(of_images, "FlaxBeitForImageClassification", "BeitConfig", **VISION),
    "RegNet": functools.partial(
        of_images,
        "FlaxRegNetForImageClassification",
        "RegNetConfig",
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        groups_width=4,
    ),
}
