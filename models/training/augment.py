"""Batched augmentation on grey images in 0..1, made to break what gives a film's source away.

Resolution, tone curve, borders and markers differ between hospitals; a network that can read them learns the
hospital and not the disease. So each batch gets random geometry, source resolution, histogram equalisation, gamma,
contrast, blur or sharpening, noise, erased boxes and painted borders. `spoil` makes the defects that the generalist
must name, and `phantoms` draws radiograph-like pictures of nothing in particular.
"""

import math

import torch
import torch.nn.functional as F

MEAN, STD = 0.5, 0.25
FITNESS = ["fit", "rotated-90", "rotated-180", "inverted", "blurred", "cropped", "overexposed", "blank"]


def uniform(generator, low, high, *shape):
    return torch.rand(*shape, generator=generator) * (high - low) + low


def chance(generator, probability, count):
    return torch.rand(count, generator=generator) < probability


def resample(images, size, generator, strength=1.0):
    """Random zoom, shift, rotation and aspect; [N, 1, S, S] to [N, 1, size, size]."""
    n = len(images)
    zoom = 1 + uniform(generator, -0.14, 0.08, n) * strength
    aspect = torch.exp(uniform(generator, -0.10, 0.10, n) * strength)
    angle = uniform(generator, -9, 9, n) * strength * math.pi / 180
    shift = uniform(generator, -0.08, 0.08, n, 2) * strength
    cosine, sine = angle.cos(), angle.sin()
    matrix = torch.stack([
        torch.stack([zoom * aspect * cosine, -zoom * sine, shift[:, 0]], 1),
        torch.stack([zoom * sine, zoom / aspect * cosine, shift[:, 1]], 1),
    ], 1)
    grid = F.affine_grid(matrix, (n, 1, size, size), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def coarsen(images, generator, probability=0.4):
    """Throws detail away as if the original had been 48 to 112 pixels wide."""
    size = images.shape[-1]
    for chunk in torch.randperm(len(images), generator=generator)[: int(len(images) * probability)].split(8):
        width = int(uniform(generator, 0.42, 0.9, 1) * size)
        small = F.interpolate(images[chunk], size=(width, width), mode="bilinear", antialias=True)
        images[chunk] = F.interpolate(small, size=(size, size), mode="bilinear")
    return images


def tone(images, generator):
    """Histogram equalisation blended in by a random share, then gamma, contrast and brightness: one table an image."""
    n = len(images)
    levels = (images.flatten(1) * 255).round().clamp(0, 255).long()
    table = torch.linspace(0, 1, 256).repeat(n, 1)
    offset = torch.arange(n)[:, None] * 256
    histogram = torch.bincount((levels + offset).flatten(), minlength=n * 256).view(n, 256).float()
    histogram[:, 0] = histogram[:, 0].clamp(max=levels.shape[1] * 0.02)  # black borders must not count
    equalised = histogram.cumsum(1)
    equalised = equalised / equalised[:, -1:].clamp(min=1)
    share = uniform(generator, 0, 1, n) * chance(generator, 0.5, n)
    table = table * (1 - share[:, None]) + equalised * share[:, None]
    gamma = torch.exp(uniform(generator, -0.5, 0.5, n) * chance(generator, 0.7, n))
    table = table.clamp(1e-4, 1) ** gamma[:, None]
    contrast = torch.exp(uniform(generator, -0.4, 0.35, n) * chance(generator, 0.7, n))
    brightness = uniform(generator, -0.12, 0.12, n) * chance(generator, 0.6, n)
    table = (table - 0.5) * contrast[:, None] + 0.5 + brightness[:, None]
    return table.clamp(0, 1).gather(1, levels).view_as(images)


def gaussian(images, sigma):
    """Separable blur by one sigma for the whole chunk."""
    radius = max(1, int(2.5 * sigma))
    at = torch.arange(-radius, radius + 1).float()
    kernel = torch.exp(-at * at / (2 * sigma * sigma))
    kernel = kernel / kernel.sum()
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])


def focus(images, generator):
    """A quarter slightly blurred, a quarter sharpened, and noise on a third."""
    order = torch.randperm(len(images), generator=generator)
    quarter = len(images) // 4
    if quarter:
        for chunk in order[:quarter].split(8):
            images[chunk] = gaussian(images[chunk], float(uniform(generator, 0.3, 1.0, 1)))
        for chunk in order[quarter: 2 * quarter].split(8):
            amount = float(uniform(generator, 0.3, 1.5, 1))
            images[chunk] = images[chunk] + amount * (images[chunk] - gaussian(images[chunk], 1.2))
    scale = uniform(generator, 0.005, 0.045, len(images)) * chance(generator, 0.35, len(images))
    noise = torch.randn(images.shape, generator=generator)
    return (images + noise * scale[:, None, None, None]).clamp(0, 1)


def cover(images, generator):
    """Painted borders, up to two erased boxes, and small bright or dark marks in the corners."""
    n, size = len(images), images.shape[-1]
    rows = torch.arange(size)[None, :, None] / size
    columns = torch.arange(size)[None, None, :] / size
    plane = images[:, 0]
    edge = uniform(generator, 0, 0.09, n, 4, 1, 1) * chance(generator, 0.3, n * 4).view(n, 4, 1, 1)
    border = (rows < edge[:, 0]) | (rows >= 1 - edge[:, 1]) | (columns < edge[:, 2]) | (columns >= 1 - edge[:, 3])
    grey = torch.where(chance(generator, 0.7, n), torch.zeros(n), torch.rand(n, generator=generator))
    plane = torch.where(border, grey[:, None, None], plane)
    for probability, low, high, where in [(0.25, 0.06, 0.25, 0.75), (0.12, 0.06, 0.2, 0.75), (0.35, 0.02, 0.1, 0.15)]:
        height, width = uniform(generator, low, high, 2, n, 1, 1)
        top, left = uniform(generator, 0, where, 2, n, 1, 1)
        flip = chance(generator, 0.5, n)[:, None, None]
        left = torch.where(flip, 1 - left - width, left)
        box = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
        box &= chance(generator, probability, n)[:, None, None]
        grey = torch.rand(n, generator=generator)[:, None, None]
        plane = torch.where(box, grey if where > 0.2 else grey.round(), plane)
    return plane[:, None]


def spoil(images, generator, which):
    """Applies the defect `which[i]` (index into FITNESS) to image i; 0 leaves it alone."""
    size = images.shape[-1]
    for i in torch.nonzero(which).flatten().tolist():
        image, defect = images[i: i + 1], FITNESS[which[i]]
        draw = torch.rand(6, generator=generator).tolist()
        if defect == "rotated-90":
            image = torch.rot90(image, 1 if draw[0] < 0.5 else 3, (2, 3))
        elif defect == "rotated-180":
            image = torch.rot90(image, 2, (2, 3))
        elif defect == "inverted":
            image = 1 - image
        elif defect == "blurred":
            image = gaussian(image, (1.9 + 3.0 * draw[0]) * size / 128)
        elif defect == "cropped":
            width = int(size * (0.42 + 0.22 * draw[0]))
            room = size - width
            top, left = round(draw[1] * room), round(draw[2] * room)
            image = F.interpolate(image[:, :, top: top + width, left: left + width], size=(size, size), mode="bilinear")
        elif defect == "overexposed":
            if draw[0] < 0.6:
                image = ((image - image.median()) * (1 + draw[1]) + 0.85 + 0.35 * draw[2]).clamp(0, 1)
            else:
                image = ((image - image.median()) * (1 + draw[1]) + 0.15 - 0.3 * draw[2]).clamp(0, 1)
        elif defect == "blank":
            level = round(draw[0]) if draw[3] < 0.4 else draw[0]
            ramp = torch.linspace(-0.5, 0.5, size) * (draw[1] * 0.5 if draw[3] > 0.6 else 0)
            image = (level + ramp[None, None, None, :] * torch.ones_like(image))
            image = image + torch.randn(image.shape, generator=generator) * draw[2] * (0.3 if draw[4] < 0.3 else 0.03)
            if draw[5] < 0.3:
                image[:, :, int(size * 0.8):, int(size * 0.8):] = 1 - level
        images[i: i + 1] = image.clamp(0, 1)
    return images


def phantoms(count, size, generator, textures):
    """Soft-tissue shapes with bone-like bars, on dark or light ground: stands for limbs, hips, breasts, spines.

    Real radiographs of other body parts are kept for testing; these are drawn so that the network does not take
    every grey picture with tissue for a chest.
    """
    axis = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    pictures = []
    for k in range(count):
        draw = lambda low, high: float(uniform(generator, low, high, 1))  # noqa: E731
        picture = torch.full((size, size), draw(0, 0.12))
        texture = gaussian(textures[k: k + 1], draw(0.5, 2))[0, 0] - textures[k].mean()
        tilt = draw(-math.pi, math.pi)
        for part in range(int(draw(1, 4))):
            cx, cy, angle = draw(0.1, 0.9), draw(0.1, 0.9), tilt + draw(-0.5, 0.5)
            u = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
            v = -(x - cx) * math.sin(angle) + (y - cy) * math.cos(angle)
            long, short = draw(0.3, 1.2), draw(0.12, 0.45)
            inside = 1 - (u / long) ** 2 - (v / short) ** 2
            tissue = inside.clamp(min=0).sqrt() * draw(0.25, 0.6)
            picture = torch.maximum(picture, tissue + (inside > 0) * texture * draw(0.2, 0.9))
            for bar in range(int(draw(0, 3))):
                at, width = draw(-0.5, 0.5) * short, draw(0.06, 0.3) * short
                bone = ((v - at).abs() < width * (1 + 0.5 * (u / long * 3).sin().abs())) & (inside > 0) & (u.abs() < long * draw(0.5, 1))
                cortex = 0.6 + 0.4 * ((v - at) / width).abs().clamp(max=1) ** 3
                picture = torch.where(bone, picture + draw(0.15, 0.4) * cortex, picture)
            if draw(0, 1) < 0.3:
                ring = ((u / long) ** 2 + (v / short) ** 2 - draw(0.1, 0.5)).abs() < 0.06
                picture = torch.where(ring, picture + draw(0.1, 0.35), picture)
        picture = picture + torch.randn(size, size, generator=generator) * 0.01
        if draw(0, 1) < 0.2:
            picture = 1 - picture
        pictures.append(gaussian(picture[None, None], draw(0.3, 1.2)).clamp(0, 1))
    return torch.cat(pictures)


def training_batch(pixels, size, generator, defects):
    """uint8 [N, S, S] to a normalised [N, 1, size, size]; `defects` names what `spoil` does to each."""
    images = torch.from_numpy(pixels)[:, None].float() / 255
    images = resample(images, size, generator)
    images = coarsen(images, generator)
    images = tone(images, generator)
    images = spoil(images, generator, defects)
    images = cover(images, generator)
    return normalise(focus(images, generator))


def normalise(images):
    return (images - MEAN) / STD
