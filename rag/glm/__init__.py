"""The ChatGLM3 workshop: official checkpoints, tokenizer and adapters, on the native GLM model.

Nothing here runs code that came with a checkpoint, and importing this package loads no engine.
Which modules import PyTorch when they are imported: keys, weights, quantized, checkpoint, load,
lora, prefix, merge. The others do not: config, sentencepiece, tokenizer, chat, data, inspection.
"""
