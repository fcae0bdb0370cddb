"""Windows of attention, as Swin transformers cut an image into them."""


def windows(x, size=4):
    """An image ``(batch, height, width, channels)`` as ``(windows, positions, channels)``."""
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def image(x, shape, size=4):
    """The image of a shape that such windows were cut from."""
    b, h, w, c = shape
    x = x.view(b, h // size, w // size, size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
