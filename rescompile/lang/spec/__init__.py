"""What a user may write: the pydantic models of spec format 1. The JSON Schema is generated from them.

A value may be an expression wherever a scalar stands, so attributes are typed when they are evaluated (elaboration).
The models check the form: which keys, which combinations, which words.

    values    scalars, expressions, a value per copy, names
    rows      a row: a block with arguments, once or `depth` times
    steps     everything else that may stand in a network or in the body of a block
    blocks    the definition of a block and of its parameters
    mentions  the names that expressions mention
    spec      the keys of a spec file
"""
