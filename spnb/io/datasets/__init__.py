"""The images and targets that a network is trained on.

May import all of `spnb.io`.  Begin with `examples`; `image_folder` and `cifar` are data sets on
disk, and `prepared` decodes and resizes each image once.
"""
