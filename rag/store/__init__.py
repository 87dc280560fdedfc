"""The one truth: documents, chunks with their vectors, and the log of every change to them."""
