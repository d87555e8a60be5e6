"""The embedded demonstration models: package data, and the network one of them needs."""
