"""Embedders: text to unit vectors, on the CPU (openvino.py) or through PyTorch (torch.py).

What they share: the description of a model folder (model.py), its tokenizer (tokens.py), the model
that is installed with the project (packaged.py) and the checks every embedder passes
(conformance.py). Importing this package loads none of the engines.
"""
