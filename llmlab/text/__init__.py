"""From files to batches of token ids: reading, tokenizers, chat templates, datasets."""

from llmlab.text.corpus import corpus_texts, train_tokenizer
from llmlab.text.datasets import DATASETS, Dataset
from llmlab.text.datasets.windows import Windows
from llmlab.text.reading import read_chats, read_texts
from llmlab.text.templates import TEMPLATES, Message, Template
from llmlab.text.tokenizers import TOKENIZERS, Tokenizer

__all__ = [
    "DATASETS",
    "TEMPLATES",
    "TOKENIZERS",
    "Dataset",
    "Message",
    "Template",
    "Tokenizer",
    "Windows",
    "corpus_texts",
    "read_chats",
    "read_texts",
    "train_tokenizer",
]
