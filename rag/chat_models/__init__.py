"""LangChain chat models: ChatGLM3 in this process, and any OpenAI-compatible endpoint.

Together with rag.chain the only place that knows LangChain. What is asked, and what becomes of the
answer, is rag.prompt's and rag.citations' business.
"""
