"""Training and evaluation as the user's process directs them; ranks compute in `spnb.training`.

May import what `spnb.driver` may, and the loading of ranks there.  Begin with `training_loop`
(epoch by epoch) or `evaluation`; `checkpoint` has the format of the file.
"""
