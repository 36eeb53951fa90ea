"""Naive pure-Python references: the definition in the plainest form, slow and free of the code under test."""
