"""A language server for spec files: what an editor shows while a spec is written.

    server       the protocol: the only module that knows pygls
    documents    the open texts; each with what is known of it, and of its last valid state
    positions    lines and columns of the reader, and those of the protocol
    problems     diagnostics
    names        what the names in a text may mean: its own, those of its bases, and the library's
    walker       notes what stands at each place; `step_walker` and `value_walker` serve it
    index        what stands at a position, and where else it is mentioned
    facts        what the compiled network knows of a place: nodes, shapes, values
    docs         what is known about each thing, as Markdown
    hover, completion (with the table `offers`), navigation, renaming, outline, fixes
    hints        the output, parameters and MACs at the end of each row

Every feature is a function from a document, and a position in it, to types of the protocol.
"""
