"""How the bundled bases are made: corpus, tokenizer, packed tokens, training. Not part of the installed package."""
