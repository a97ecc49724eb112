"""The targets, one module each. Load them with `rescompile.backend.load(name)`; never import them directly."""

if __name__ != "rescompile.backends":
    raise ImportError(
        "this folder is the package rescompile.backends; install rescompile and use rescompile.backend.load"
    )
