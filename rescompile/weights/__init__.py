"""Weights: a mapping from parameter name to array, apart from the tree and made on demand. A network costs kilobytes until its
weights are written.

    mapping            the mapping
    drawing            new weights by the initialisation rules
    statistics         new weights with the statistics of a batch in their norms
    checkpoints        a checkpoint of any format, without the prefixes of wrappers
    tensors            a tensor of a checkpoint, read on demand
    *_file, *_checkpoint, hdf5, numpy_files     one file format each
    key_matching       checkpoint keys and the parameters of a network
    profiles           the names of other libraries
    adaptation         another number of classes or of input channels
    transfer           weights of one spec for an edited one
"""

from rescompile.weights.drawing import draw
from rescompile.weights.key_matching import from_arrays
from rescompile.weights.mapping import Array, Weights

__all__ = ["Array", "Weights", "draw", "from_arrays"]
