"""The tree, the one data structure of the compiler: its nodes, operators, expressions and names, and what holds for every tree."""
