"""Databases, by SQLAlchemy: manifests out of a query, outcomes into a table of results."""
