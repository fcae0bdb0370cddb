"""The process of a rank: what a session asks it to do, and what a `%%px` cell sees of it.

May import `spnb.training` and what lies below.  Begin with `rank`; `remote` is what a cluster
calls, `here` is `spnb.here`, `cells` makes cells safe to interrupt.
"""
