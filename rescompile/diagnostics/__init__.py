"""Diagnostics with their codes and places, the exceptions that carry them, and their rendering."""
