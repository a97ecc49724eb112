"""The function of a file that reads its weights."""

from __future__ import annotations

#: Reads the weights of a file.
LOAD = '''
def load(model: keras.Model, path: str) -> None:
    """Fill a model with the weights of a safetensors file."""
    data = np.memmap(path, mode="r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())
    types = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
    names = {"__metadata__": None}
    for variable in model.weights:
        name, shape = variable.path, list(variable.shape)
        names[name] = variable
        if name not in header or header[name]["shape"] != shape:
            raise ValueError(f"{path} lacks {name} with shape {shape}")
    for name in header:
        if name not in names:
            raise ValueError(f"{path} has {name}, which the model lacks")
    for variable in model.weights:
        first, last = header[variable.path]["data_offsets"]
        dtype = types[header[variable.path]["dtype"]]
        values = data[start + first : start + last].view(dtype)
        variable.assign(values.reshape(variable.shape))
'''
