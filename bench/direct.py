"""The pipeline that one would write by hand: LangChain's loaders, splitter, embeddings and FAISS.

    python -m bench.direct FOLDER OUTPUT

Run as a process of its own by bench.ingest; prints the number of chunks.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    """Load every file of a folder, cut it up, embed it and save a FAISS index."""
    warnings.simplefilter("ignore", DeprecationWarning)
    from langchain_community.document_loaders import (
        BSHTMLLoader,
        CSVLoader,
        Docx2txtLoader,
        PyPDFLoader,
        TextLoader,
    )
    from langchain_community.vectorstores import FAISS
    from langchain_huggingface import HuggingFaceEmbeddings
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    from rag.embed.packaged import packaged_folder

    folder, output = map(Path, sys.argv[1:])
    loaders: dict[str, Any] = {
        ".txt": TextLoader, ".md": TextLoader, ".html": BSHTMLLoader,
        ".csv": CSVLoader, ".docx": Docx2txtLoader, ".pdf": PyPDFLoader,
    }  # fmt: skip
    documents = []
    for path in sorted(folder.iterdir()):
        documents += loaders[path.suffix](str(path)).load()
    splitter = RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=200)
    chunks = splitter.split_documents(documents)
    embeddings = HuggingFaceEmbeddings(
        model_name=str(packaged_folder()), encode_kwargs={"normalize_embeddings": True}
    )
    FAISS.from_documents(chunks, embeddings).save_local(str(output))
    print(len(chunks))


if __name__ == "__main__":
    main()
