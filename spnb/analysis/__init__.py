"""Figures of a plan, by arithmetic or on a simulated clock; no rank is started.

May import `spnb.planner`, `spnb.runtime` and the floors below.  Begin with `summary`, the table
that a plan shows; `traffic` counts messages, bytes and work, `memory` the bytes that ranks hold,
`halos` lists halos, and `simulate` runs the plan on a cost model.
"""
