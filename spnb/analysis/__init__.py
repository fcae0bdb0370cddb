"""Figures of a plan, by arithmetic or on a simulated clock; no rank is started.

May import `spnb.planner`, `spnb.runtime` and what lies below.  Begin with `summary`; `survey`
counts bytes and memory, `halos` lists halos, `simulate` runs the plan on a cost model.
"""
