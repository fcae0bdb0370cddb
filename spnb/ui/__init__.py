"""Words and clicks: the command line, flags, magics, the notebook's one cluster, the explorer.

May import everything else; nothing imports it.  Begin with `cli` for the shell, `magics` for
notebooks.
"""
