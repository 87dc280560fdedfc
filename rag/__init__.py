"""The library: retrieval, generation and storage.

It knows no HTTP, and parses no command line except in rag.glm.cli.
"""
