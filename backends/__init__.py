"""The targets, one module each. Reached through `rescompile.backend.load(name)`, never imported directly."""

if __name__ != "rescompile.backends":
    raise ImportError(
        "this folder is the package rescompile.backends; install rescompile and use rescompile.backend.load"
    )
