"""The process of a rank: the calls of a session to it, and its face in a `%%px` cell.

May import `spnb.training` and the floors below.  Begin with `service` (the calls) and `rank` (their
implementation); a session calls the functions of `remote`; `here` is `spnb.here`.
"""
