"""Measures retrieval and answers on folders of queries, corpora and judgements."""
