"""The network of `cxr-findings`: a trunk, a fine map, and two ways of pooling it.

Features at stride 16 (before the last stages) and stride 32 (after them) are joined on the finer grid; each label is a
linear map over it. Two poolings give a logit each, and their mean is the model's: the average over the picture, and a
softmax over the cells, by which a small finding is not drowned by the rest of the film.
"""

import copy

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn

from network import FEATURES, Trunk, convolution, fold, load_trunk

ANATOMY_SIZE = 128


class Standardise(nn.Module):
    """Each picture gets the mean and the spread that its inner four fifths would have if it were an average film."""

    def forward(self, x):
        side = x.shape[-1]
        edge = side // 10
        inner = x[:, :, edge: side - edge, edge: side - edge]
        mean = inner.mean((2, 3), keepdim=True)
        inner = inner - mean
        spread = (inner * inner).mean((2, 3), keepdim=True).add(0.01).sqrt()
        # The shipped trunk's films: mean 0.2 and spread 0.9 in units of the input.
        return (x - mean) / spread * 0.9 + 0.2


def enlarging(few, many):
    """The matrix of a bilinear enlargement along one axis: a plain product instead of an operator of its own."""
    return F.interpolate(torch.eye(int(few))[None], size=int(many), mode="linear", align_corners=False)[0].T


class Findings(nn.Module):
    """Image to a logit a label; `forward` gives the two poolings' logits and the maps."""

    def __init__(self, labels, variant="lite0", dropout=0.2, fine=256):
        super().__init__()
        self.standardise = Standardise()
        self.trunk = Trunk(32, variant)
        self.variant = variant
        self.split = next(i for i, b in enumerate(self.trunk.blocks) if i > 6 and b.layers[-2][0].stride == (2, 2))
        width = self.trunk.blocks[self.split - 1].layers[-1][0].out_channels
        self.fine = convolution(width, fine, 1)
        self.coarse_map = nn.Conv2d(FEATURES, labels, 1)
        self.fine_map = nn.Conv2d(fine, labels, 1, bias=False)
        self.mean_head = nn.Linear(FEATURES, labels)
        self.dropout = dropout
        self.front = None
        nn.init.zeros_(self.fine_map.weight)

    def fold(self):
        """Folds normalisation away for good: cheaper to train, from weights that have settled."""
        fold(self.trunk.eval())
        for module in self.trunk.modules():
            if isinstance(module, nn.ReLU6):
                module.inplace = True

    def freeze(self, count):
        """The stem and first blocks stop learning."""
        parts = nn.Sequential(self.trunk.stem, *self.trunk.blocks[:count])
        parts.requires_grad_(False).eval()
        self.front = (count, fold(copy.deepcopy(parts)))

    def features(self, x):
        x = self.standardise(x)
        first = 0
        if self.front is not None:
            first, front = self.front
            with torch.no_grad():
                x = front(x)
        else:
            x = self.trunk.stem(x)
        middle = self.trunk.blocks[first: self.split](x)
        return middle, self.trunk.head(self.trunk.blocks[self.split:](middle))

    def maps(self, middle, deep):
        rows, columns = (enlarging(deep.shape[k], middle.shape[k]) for k in (2, 3))
        coarse = rows[None, None] @ self.coarse_map(deep) @ columns.T[None, None]
        return coarse + self.fine_map(self.fine(middle))

    def forward(self, x):
        middle, deep = self.features(x)
        if self.training and self.dropout:
            # The same channels fall out in both poolings.
            keep = torch.rand(deep.shape[0], deep.shape[1], 1, 1) >= self.dropout
            deep = deep * keep / (1 - self.dropout)
        maps = self.maps(middle, deep)
        averaged = self.mean_head(deep.mean((2, 3)))
        flat = maps.flatten(2)
        attended = (flat.softmax(-1) * flat).sum(-1)
        return averaged, attended, maps

    def logits(self, x):
        averaged, attended, _ = self(x)
        return (averaged + attended) / 2

    def load_shipped(self, folder, labels):
        """Weights of the joint training out of its ONNX file: trunk folded, and the heads of the labels it knows."""
        heads, values = load_trunk(self.trunk, folder)
        if not heads:
            return
        rows = heads[0][0]
        bias = next(v for v in values.values() if v.shape == rows.shape[:1])
        with torch.no_grad():
            for row, label in enumerate(labels):
                self.mean_head.weight[label] = rows[row, :, 0, 0]
                self.coarse_map.weight[label] = rows[row]
                self.mean_head.bias[label] = self.coarse_map.bias[label] = bias[row]


class HeartShare(nn.Module):
    """Area of the heart over that of the lungs, as the segmentation model sees them: a measure that no report taught.

    It tells an enlarged heart at a hospital whose films no label came from, which mined labels do badly.
    """

    def __init__(self, folder, size):
        super().__init__()
        self.anatomy = load_anatomy(folder)
        self.register_buffer("shrink", shrinking(size, ANATOMY_SIZE))
        self.register_buffer("cells", shrinking(32, size // 16))

    def forward(self, image):
        if self.shrink.shape[0] != self.shrink.shape[1]:
            image = self.shrink[None, None] @ image @ self.shrink.T[None, None]
        heart, right, left = self.anatomy(image).sigmoid().split(1, 1)
        lungs = right + left
        share = heart.sum((2, 3)) / (lungs.sum((2, 3)) + 1)
        # By cell of the maps: the heart's share of it, and whether lung, or heart or lung, is in it at all.
        finer = [F.avg_pool2d(plane, ANATOMY_SIZE // 32) for plane in (heart, lungs, heart + lungs)]
        planes = [self.cells[None, None] @ finer[0] @ self.cells.T[None, None]]
        planes += [self.cells[None, None] @ F.max_pool2d(plane, 3, 1, 1) @ self.cells.T[None, None] for plane in finer[1:]]
        return (share + 0.01).log(), planes


def shrinking(many, few):
    """The matrix of an antialiased bilinear reduction along one axis."""
    column = F.interpolate(torch.eye(many)[None, None], size=(few, many), mode="bilinear", antialias=many > few, align_corners=False)
    return column[0, 0]


def load_anatomy(folder):
    """The shipped segmentation model as a module, its weights read from the ONNX file in the order of its operators."""
    from train_anatomy import Anatomy

    module = fold(Anatomy().eval())
    graph = onnx.load(f"{folder}/model.onnx").graph
    values = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    nodes = iter([node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")])

    def take(layer, *_):
        node = next(nodes)
        weight = values[node.input[1]]
        if weight.shape != layer.weight.shape:
            raise SystemExit(f"{folder}/model.onnx is not of this architecture")
        layer.weight.data, layer.bias.data = weight, values[node.input[2]]

    hooks = [m.register_forward_pre_hook(take) for m in module.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    with torch.no_grad():
        module(torch.zeros(1, 1, ANATOMY_SIZE, ANATOMY_SIZE))
    for hook in hooks:
        hook.remove()
    return module


class Single(nn.Module):
    """One network's logits of a picture, or of it and its mirror image."""

    def __init__(self, member, size, mirrored=True):
        super().__init__()
        self.member, self.mirrored = member, mirrored
        self.register_buffer("turn", torch.arange(size - 1, -1, -1))

    def forward(self, image):
        if self.mirrored:
            image = torch.cat([image, image.index_select(3, self.turn)], 0)
        averaged, attended, _ = self.member(image)
        return ((averaged + attended) / 2).mean(0, keepdim=True)


class Joint(nn.Module):
    """The jointly trained trunk with its own findings layer, as a member: read once, at the size that it was trained at.

    It was trained without mirror images, and its maps show the place more than the finding: it has no say in the maps.
    """

    mirrored = False

    def __init__(self, folder, labels, rows, size):
        super().__init__()
        net = Findings(labels)
        net.load_shipped(folder, rows)
        self.trunk, self.linear = net.trunk, net.mean_head
        self.register_buffer("shrink", shrinking(size, ANATOMY_SIZE))

    def forward(self, image):
        image = self.shrink[None, None] @ image @ self.shrink.T[None, None]
        deep = self.trunk(image)
        averaged = self.linear(deep.mean((2, 3)))
        return averaged, averaged, None


class FindingsGraph(nn.Module):
    """What ships: logits averaged over one or several networks, each on the picture and its mirror image, and maps.

    One label (cardiomegaly) is blended with what the outlines of heart and lungs measure. A map is what its cells say
    beyond the same cells of normal films, inside the lungs; cardiomegaly's is the heart. It is moved so that its mean is the
    logit less a constant of the label: a positive cell speaks for the finding.
    """

    def __init__(self, members, labels, size, mirrored=True, share=None, column=1, hernia=7):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.mirrored = mirrored
        self.share = share
        self.register_buffer("rows", torch.tensor(labels))
        self.register_buffer("turn", torch.arange(size - 1, -1, -1))
        self.register_buffer("usual", torch.zeros(1, len(labels), 1, 1))
        self.register_buffer("common", torch.zeros(1, len(labels)))
        # logit * keep + share * weigh + lift, by label; the share moves one column alone.
        self.register_buffer("keep", torch.ones(1, len(labels)))
        self.register_buffer("weigh", torch.zeros(1, len(labels)))
        self.register_buffer("lift", torch.zeros(1, len(labels)))
        self.column = column
        place = {column: "in_heart", hernia: "in_chest"}
        for name in ("in_lungs", "in_chest", "in_heart"):
            inside = [float(place.get(k, "in_lungs") == name) for k in range(len(labels))]
            self.register_buffer(name, torch.tensor(inside)[None, :, None, None])

    def blend(self, keep, weigh, lift):
        for buffer, value in ((self.keep, keep), (self.weigh, weigh), (self.lift, lift)):
            buffer[0, self.column] = value

    def raw(self, image):
        """Logits and maps of the labels, averaged over members and mirror images."""
        both = torch.cat([image, image.index_select(3, self.turn)], 0) if self.mirrored else image
        count, logits, maps = image.shape[0], 0, 0
        for member in self.members:
            twice = self.mirrored and getattr(member, "mirrored", True)
            averaged, attended, own = member(both if twice else image)
            mean = (averaged + attended) / 2
            if twice:
                # Picture and mirror image lie one behind the other in the batch.
                turn = torch.arange(own.shape[3] - 1, -1, -1)
                mean = (mean[:count] + mean[count:]) / 2
                own = (own[:count] + own[count:].index_select(3, turn)) / 2
            logits = logits + mean / len(self.members)
            maps = maps if own is None else maps + own
        logits, maps = logits.index_select(1, self.rows), maps.index_select(1, self.rows)
        if self.share is None:
            return logits, maps, None
        share, planes = self.share(image)
        return logits * self.keep + share * self.weigh + self.lift, maps, planes

    def learn_usual(self, images):
        """Takes the average map and logit from normal films [N, 1, H, W]."""
        with torch.no_grad():
            found = [self.raw(chunk) for chunk in images.split(16)]
        self.usual = torch.cat([maps for _, maps, _ in found]).mean(0, keepdim=True)
        self.common = torch.cat([logits for logits, _, _ in found]).mean(0, keepdim=True)

    def forward(self, image):
        logits, maps, planes = self.raw(image)
        beyond = maps - self.usual
        if planes is not None:
            # Evidence counts where there is lung (for a hernia, lung or heart) and beyond the average there; an enlarged
            # heart is the heart itself.
            heart, lungs, chest = planes
            place = lungs * self.in_lungs + chest * self.in_chest
            middle = (beyond * place).sum((2, 3), keepdim=True) / (place.sum((2, 3), keepdim=True) + 0.01)
            beyond = F.relu(beyond - middle) * place + 4 * heart * self.in_heart
        level = (logits - self.common)[:, :, None, None]
        return logits, beyond - beyond.mean((2, 3), keepdim=True) + level
