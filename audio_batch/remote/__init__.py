"""Recordings and transcripts that lie in object stores or on the web, by fsspec."""
