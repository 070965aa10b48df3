"""Tiny random language models with tokenizers trained on the spot, saved as the hub's are.

Heads are 32 wide, because vLLM takes no 16. Weights are drawn wide, so that every block, every
norm and every neighbour of a token shows in the states.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

DECODERS = ("llama", "qwen2", "qwen3", "mistral")
KINDS = (*DECODERS, "bert")
WIDTH = 64
BLOCKS = 3
POSITIONS = 128

WORDS = "red wooden train castle building set with blocks and figures for small children box of 300"
CORPUS = [f"{a} {b}" for a in WORDS.split() for b in WORDS.split()]


def build(kind: str, folder: Path, **settings: Any) -> Path:
    """Save a model of a kind of KINDS with its tokenizer in a folder, and return the folder.

    settings: of its config, in place of those here. As in the real models, llama and mistral
    tokenizers open with a token and have none for padding, qwen ones open with nothing.
    """
    import torch
    import transformers

    tokenizer = _wordpiece() if kind == "bert" else _bytes(opens=kind in ("llama", "mistral"))
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral"}
    name = names.get(kind, "Bert")
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": WIDTH // 32,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if kind != "bert":
        sizes |= {"num_key_value_heads": 1, "head_dim": 32, "tie_word_embeddings": False}
    config = getattr(transformers, f"{name}Config")(**sizes | settings)
    head = "Model" if kind == "bert" else "ForCausalLM"
    torch.manual_seed(1)
    model = getattr(transformers, name + head)(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # gains and shifts start at ones and zeros, which hide mistakes
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _bytes(*, opens: bool) -> Any:
    """Return a byte-level BPE tokenizer, as those of Llama 3 and Qwen."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    start, end, pad = "<|begin|>", "<|end|>", "<|pad|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[start, end, pad],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    marks = {"eos_token": end} | ({"bos_token": start} if opens else {"pad_token": pad})
    if opens:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A",
            pair=f"{start} $A $B",
            special_tokens=[(start, tokenizer.token_to_id(start))],
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **marks)


def _wordpiece() -> Any:
    """Return a lower-casing WordPiece tokenizer, as BERT's."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(CORPUS, vocab_size=200, show_progress=False)
    return BertTokenizerFast(tokenizer_object=tokenizer._tokenizer, model_max_length=POSITIONS)
