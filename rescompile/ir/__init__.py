"""The tree, the one data structure of the compiler: its nodes, operators, expressions and names, and the rules that every tree keeps."""
