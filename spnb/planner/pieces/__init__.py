"""Concatenations of tokens that are not made: their parts stay apart, each cut in its own way.

A class token in front of the tokens of an image belongs to no position, so the joint tensor has no
tiles.  Here such a tensor is held as *pieces*, and each call is made for each piece::

    cat([class token, tokens])  →  linear  →  x[:, 0]
    class token  (1,  1, 64)       linear     the result
    tokens  (1, 12·12, 64), tiled  linear     not read

Begin with `in_pieces`.  `pieces` has the data, and `piece_calls` adds calls to the graph.  The
other modules each write one kind of call for pieces: `alike` what treats all positions alike,
`joined` concatenations and slices, `merged` sums over all pieces, and `attention`.
"""
