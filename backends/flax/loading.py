"""The function of a file that reads its weights."""

from __future__ import annotations

#: Reads the weights of a file. An NNX state contains no step counts or random keys here.
_LOAD = '''
def load(model: nnx.Module, path: str) -> None:
    """Fill a model with the weights of a safetensors file."""
    data = np.memmap(path, mode="r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())
    header.pop("__metadata__", None)
    types = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}

    def read(name: str) -> jax.Array:
        entry = header.pop(name)
        first, last = entry["data_offsets"]
        values = data[start + first : start + last].view(types[entry["dtype"]])
        return values.reshape(entry["shape"])

    state = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    variables = {}
    for keys, variable in state:
        name = ""
        for key in keys:
            name = f"{name}.{key}" if name else f"{key}"
        variables[name] = variable
    loaded = {}
    for name, variable in variables.items():
        values = READ
        if values is None or values.shape != variable.shape:
            raise ValueError(f"{path} lacks {name} with shape {variable.shape}")
        loaded[name] = jnp.array(values, variable.dtype)
    for name in header:
        raise ValueError(f"{path} has {name}, which the model lacks")
    for name, variable in variables.items():
        variable[...] = loaded[name]
    nnx.update(model, nnx.from_flat_state(state))
'''
#: The value that it reads for a variable.
_READ = {
    False: "read(name) if name in header else None",
    True: "stacked(name, header, variables, read)",
}


def load(scans: bool) -> str:
    """Return the function that reads weights, for a file with or without scans."""
    return _LOAD.strip().replace("READ", _READ[scans])
