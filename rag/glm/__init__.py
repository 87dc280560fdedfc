"""The ChatGLM3 workshop: official checkpoints, tokenizer and adapters, on the native GLM model.

Nothing here runs code that came with a checkpoint, and importing this package loads no engine.

No PyTorch: config, keys (shapes and names), sentencepiece, tokenizer, saved_tokenizer, chat, data,
pieces and reply (what a model writes, read as it comes), adapters, folder, hub, inspection, cli.
With it: weights, shards (files), packing, quantize, quantized_linear (whole numbers), source (a
model folder looked through), checkpoint (convert, export), lora, prefix, merge (adapters), load,
engine, generation, rows, sampling (many requests at once), served (a chat to an answer).
"""
