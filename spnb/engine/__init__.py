"""The process of a rank: what a session asks of it, and what a `%%px` cell sees of it.

May import `spnb.training` and what lies below.  Begin with `service` (what may be asked) and
`rank` (what answers); `remote` is called from elsewhere, `here` is `spnb.here`.
"""
