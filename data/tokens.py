"""A sentence's text tokens, exactly as Whisper itself would write them.

Whisper's transcripts begin with a space after the prompt; the usual recipe forgets it and teaches a first token the
model never wrote. Special tokens are not stored: training adds them, so that one
set of shards serves prompts with and without timestamps.
"""

from functools import lru_cache

from tokenizers import Tokenizer

from data.errors import UserError
from data.model_files import model_file

# The decoder has 448 positions; five of them are <|startoftranscript|>, <|it|>, <|transcribe|> and two timestamps.
MAX_TEXT_TOKENS = 443


def load_tokenizer(model: str) -> Tokenizer:
    """The tokenizer of a Hugging Face Whisper folder or hub name. Raises `UserError` for a file that is none."""
    path = model_file(model, "tokenizer.json")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises this bare class
        raise UserError(f"{path}: not a tokenizer ({error}); fetch the model again") from error


@lru_cache(maxsize=1)
def parse_tokenizer(content: str) -> Tokenizer:
    """The tokenizer that a `tokenizer.json` describes; the last one is kept, since parsing takes 0.2 s."""
    return Tokenizer.from_str(content)


def text_tokens(tokenizer: Tokenizer, sentence: str) -> list[int]:
    """Tokens of `sentence` after a space, without special tokens; text that spells one (<|…|>) is not taken for it."""
    tokenizer.encode_special_tokens = True
    tokens: list[int] = tokenizer.encode(" " + sentence.strip(), add_special_tokens=False).ids
    return tokens
