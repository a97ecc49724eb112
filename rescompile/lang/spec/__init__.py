"""What a user may write: the pydantic models of spec format 1. The JSON Schema is generated from them.

Any scalar may be an expression, so attributes are typed when they are evaluated, in elaboration.
The models check the form: which keys, which combinations, which words.

    values    scalars, expressions, a value per copy, names
    rows      the grammar of a row
    steps     the steps of a network or of the body of a block, rows among them
    later_ops steps called like ops that came after the first release
    blocks    the definition of a block and of its parameters
    mentions  the names that expressions mention, and those that are sizes
    spec      the keys of a spec file
"""
