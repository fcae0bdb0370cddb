"""Widgets that show a plan, a run and its images: tiles, timeline and deep zoom.

`spnb.analysis` and lower floors may be imported, never a session.  Begin with `scene` (the numbers
that a script is given) or `run_view` (the widget); scripts and styles are files beside them.
"""
