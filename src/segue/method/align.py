"""Two keyframes in correspondence, so that their outlines coincide before they are blended.

Cells i of the left picture have a place p_i, a mass a_i (how much they differ from the background; even where the
background is not plain), a mean colour c_i and features h_i of a network; cells j of the right one q_j, b_j, d_j, k_j.
With places normalised by the mean and the spread of the mass, and turned as a first, coarse plan says,

    C_ij = w_p |p_i - q_j|^2 + w_c |c_i - d_j|^2 + w_h sum (1 - cos(h_i, k_j))
    pi   = argmin <C, pi> - epsilon H(pi)   over the plans from a to b      (entropic optimal transport)
    d_i  = sum_j pi_ij q_j / a_i - p_i                                      (how far cell i moves)

and likewise from right to left. Beyond the cells that have mass the field is continued smoothly and fades to 0. Matches
that are known (keypoints of poses, points that the user sets) pull cells around them in the cost; the user's also hold
exactly.

At position s the left picture's geometry has moved by s d(p), the right one's by 1 - s of its own field. To sample a
picture there, x = p + s d(p) is solved for p by a damped fixed point (``unbend``).

Sources: Cuturi, "Sinkhorn Distances", 2013, arXiv 1306.0895; Schmitzer, "Stabilized Sparse Scaling Algorithms for
Entropy Regularized Transport Problems", 2019, arXiv 1610.06519; Tang et al., "Emergent Correspondence from Image
Diffusion", 2023, arXiv 2306.03881 (the denoiser's features).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Correspondence",
    "Match",
    "align",
    "distance_moved",
    "grid",
    "is_plain",
    "place_of",
    "resize_field",
    "sample_picture",
    "unbend",
]

CELLS = 32  # along each side of a square picture; as many in all for others
PLACE, COLOUR, FEATURES, KNOWN = 0.25, 0.4, 0.5, 2.0  # weights of the cost; colours are in [-1, 1]
EPSILON = 0.006
COARSENESS, SINKHORN_STEPS = (9.0, 3.0, 1.0), 25  # epsilon falls by these factors, with as many steps at each
NEAR, FAR = 1.2, 4.0  # cells: the Gaussians that smooth a field and continue it
FOREGROUND = 0.15  # a cell with less mass is background
PLAIN, PLAIN_SHARE = 0.1, 0.6  # how far from its median the border of a plain background is, and how much of it
SURE = (0.5, 0.75)  # mean cosine of matched features: below, scenes do not correspond; above, they surely do
REACH = 0.2  # of half a picture: how far around itself a known match pulls
UNBEND_STEPS, UNBEND_CELLS = 12, 64

Match = tuple[tuple[float, float], tuple[float, float]]  # a place (x, y) in each picture, each from 0 to 1


@dataclass(frozen=True)
class Correspondence:
    """Where the geometry of two keyframes moves, each towards the other.

    Attributes:
        left, right: (2, h, w) how far (x, y) each cell of the left and of the right keyframe moves over the whole gap,
            in halves of the picture's width and height, the units of grid sampling.
        confidence: how sure it is, from 0 (nothing corresponds, and the fields are 0) to 1.
    """

    left: Tensor
    right: Tensor
    confidence: float = 1.0


def align(
    left: Tensor,
    right: Tensor,
    features: Sequence[tuple[Tensor, Tensor]] = (),
    *,
    keypoints: Sequence[Match] = (),
    points: Sequence[Match] = (),
    camera: Tensor | None = None,
) -> Correspondence:
    """Bring two pictures into correspondence.

    Args:
        left: the picture before, (3, H, W) in [-1, 1].
        right: the picture behind, of the same size.
        features: of both pictures, (C, h, w) each, of any resolution; each pair counts alike.
        keypoints: places that probably correspond; they pull what is around them.
        points: places that surely correspond; they pull too, and hold exactly.
        camera: how the camera moves meanwhile, (3, 3): from places in the right picture to where the left one would
            show them. The fields are what it leaves to be done.

    Returns:
        The fields of both pictures; a picture and itself have fields of 0.
    """
    if torch.equal(left, right) and not points and camera is None:
        still = torch.zeros(2, *_shape(left))
        return Correspondence(still, still)
    a, b = _cells(left, [h for h, _ in features]), _cells(right, [k for _, k in features])
    known_to_pull = [*keypoints, *points]
    coarse = transport(_cost(a, b, known_to_pull), a.mass, b.mass, coarseness=COARSENESS[:1])
    plan = transport(_cost(_turn(a, b, coarse), b, known_to_pull), a.mass, b.mass, coarseness=COARSENESS[1:])
    to_left = torch.eye(3) if camera is None else camera
    to_right = torch.linalg.inv(to_left)
    forth = _move_places(plan @ b.place / plan.sum(1, keepdim=True), to_left) - a.place
    back = _move_places(plan.T @ a.place / plan.sum(0)[:, None], to_right) - b.place
    known = torch.tensor(points, dtype=torch.float32).reshape(-1, 2, 2) * 2 - 1  # (m, 2 pictures, x and y)
    sure = 1.0 if points else _confidence(plan, a, b)
    return Correspondence(
        sure * _correct_field(_continue_moves(forth, a), known[:, 0], _move_places(known[:, 1], to_left)),
        sure * _correct_field(_continue_moves(back, b), known[:, 1], _move_places(known[:, 0], to_right)),
        sure,
    )


def distance_moved(found: Correspondence, left: Tensor, right: Tensor) -> float:
    """How far the subjects of two pictures (3, H, W) move over the gap: the mean over both, in widths of a picture."""
    moves = []
    for image, field in ((left, found.left), (right, found.right)):
        mass = _means(_subject(image)[None], _shape(image))[:, 0]
        across, down = (field / 2).flatten(1)
        far = torch.hypot(across, down * image.shape[1] / image.shape[2])
        moves.append(float((mass * far).sum() / mass.sum()))
    return sum(moves) / 2


def transport(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    epsilon: float = EPSILON,
    steps: int = SINKHORN_STEPS,
    coarseness: Sequence[float] = COARSENESS,
) -> Tensor:
    """The entropic optimal transport plan (n, m) for a cost (n, m) between masses (n,) and (m,) that sum to 1.

    Sinkhorn's steps, ``steps`` at each multiple of epsilon in ``coarseness``, the potentials carried from one to the
    next. They multiply by a kernel whose potentials are taken up in logarithms at each: exact in the logarithm's range,
    at the price of products of a matrix and a vector.
    """
    log_a, log_b = a.log(), b.log()
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    scaled = -cost / epsilon
    for i, coarse in enumerate(coarseness):
        if i:
            f, g = f * coarseness[i - 1] / coarse, g * coarseness[i - 1] / coarse
        scaled = -cost / (epsilon * coarse)
        for _ in range(2):  # in logarithms, until the kernel has the masses' scale
            f = log_a - _log_sum(scaled + g, 1)
            g = log_b - _log_sum(scaled + f[:, None], 0)
        kernel, v = _exponential(scaled + f[:, None] + g), torch.ones_like(b)
        for _ in range(steps):
            u = a / (kernel @ v).clamp_min(1e-30)
            v = b / (kernel.T @ u).clamp_min(1e-30)
        f, g = f + u.log(), g + v.log()
    return _exponential(scaled + f[:, None] + g)


def _exponential(x: Tensor) -> Tensor:
    """exp(x), 0 below exp(-80): processors are slow with what is nearly 0."""
    return F.threshold(x.clamp_min(-80.0).exp(), 2e-35, 0.0)


def _log_sum(x: Tensor, dim: int) -> Tensor:
    """The logarithm of the sum of exp(x) along a dimension."""
    top = x.amax(dim, keepdim=True)
    return top.squeeze(dim) + (x - top).clamp_min(-80.0).exp().sum(dim).log()


def unbend(field: Tensor, share: float) -> Tensor:
    """How far what is seen has come: x - p where x = p + share field(p), (2, h, w), with 64 cells along a square."""
    shape = [max(1, round(side * UNBEND_CELLS / CELLS)) for side in field.shape[1:]]
    move, x = resize_field(field, shape) * share, grid(shape)
    back = torch.zeros_like(move)
    for _ in range(UNBEND_STEPS):
        back = 0.5 * back + 0.5 * place_of(move, x - back)
    return back


def place_of(field: Tensor, at: Tensor) -> Tensor:
    """A field (C, h, w) at places (2, H, W) from -1 to 1, bilinear, held beyond the borders: (C, H, W)."""
    where = at.permute(1, 2, 0)[None]
    return F.grid_sample(field[None], where, padding_mode="border", align_corners=False)[0]


def sample_picture(image: Tensor, at: Tensor) -> Tensor:
    """A picture (C, h, w) at places (2, H, W) from -1 to 1, bicubic; beyond its borders its plain background, if any.

    Where the background is not plain, the picture is mirrored at its borders.
    """
    where = at.permute(1, 2, 0)[None]
    if not is_plain(image):
        return F.grid_sample(image[None], where, mode="bicubic", padding_mode="reflection", align_corners=False)[0]
    ground = _border(image).median(1).values[:, None, None]
    subject = F.grid_sample((image - ground)[None], where, mode="bicubic", padding_mode="zeros", align_corners=False)[0]
    return subject + ground


def is_plain(image: Tensor) -> bool:
    """Whether most of a picture's border (C, h, w) has one colour."""
    border = _border(image)
    far = (border - border.median(1, keepdim=True).values).abs().amax(0)
    return bool((far < PLAIN).float().mean() > PLAIN_SHARE)


def grid(shape: Sequence[int]) -> Tensor:
    """The places (2, h, w) of a picture's pixels, x and y from -1 to 1."""
    y, x = ((torch.arange(n, dtype=torch.float32) + 0.5) * 2 / n - 1 for n in shape)
    return torch.stack([x.expand(shape[0], -1), y[:, None].expand(-1, shape[1])])


def resize_field(field: Tensor, shape: Sequence[int], mode: str = "bicubic") -> Tensor:
    """A field (C, h, w) on another grid."""
    return F.interpolate(field[None], tuple(shape), mode=mode, align_corners=False)[0]


@dataclass(frozen=True)
class _Cells:
    """The n cells of a picture that have mass."""

    shape: tuple[int, int]  # (h, w) of all cells
    inside: Tensor  # (h w,) which of them these are
    place: Tensor  # (n, 2) from -1 to 1
    normal: Tensor  # (n, 2) places around the mean of the mass, its spread 1
    mass: Tensor  # (n,), sum 1
    colour: Tensor  # (n, 3)
    features: list[Tensor]  # (n, C) each, of length 1
    is_plain: bool  # whether they were told from a plain background


def _cells(image: Tensor, features: Sequence[Tensor]) -> _Cells:
    shape = _shape(image)
    mass = _means(_subject(image)[None], shape)[:, 0]
    inside = mass > FOREGROUND
    place = grid(shape).flatten(1).T
    mass, place, colour = mass[inside] / mass[inside].sum(), place[inside], _means(image, shape)[inside]
    centred = place - mass @ place
    normal = centred / (mass @ centred.square()).sqrt().clamp_min(1e-6)
    vectors = []
    for feature in features:
        rows = F.interpolate(feature[None].float(), shape, mode="bilinear", align_corners=False)[0].flatten(1).T
        vectors.append(F.normalize(rows - rows.mean(0), dim=-1)[inside])
    return _Cells(shape, inside, place, normal, mass, colour, vectors, is_plain(image))


def _subject(image: Tensor) -> Tensor:
    """How much each pixel belongs to the subject, (H, W) from 0 to 1; all alike if there is no plain background."""
    ground = _border(image).median(1).values[:, None, None]
    subject = ((image - ground).abs().amax(0) * 3).clamp(0, 1)
    is_empty = float(_means(subject[None], _shape(image)).max()) <= FOREGROUND
    return torch.ones_like(subject) if is_empty or not is_plain(image) else subject


def _cost(a: _Cells, b: _Cells, matches: Sequence[Match]) -> Tensor:
    """C, (n, m)."""
    cost = PLACE * (a.normal[:, None] - b.normal).square().sum(-1)
    cost = cost + COLOUR * (a.colour[:, None] - b.colour).square().sum(-1)
    for h, k in zip(a.features, b.features, strict=True):
        cost = cost + FEATURES * (1 - h @ k.T)
    for left, right in matches:  # how near a cell is to the known place, in both pictures
        near = [
            torch.exp(-(cells.place - torch.tensor(at) * 2 + 1).square().sum(1) / (2 * REACH**2))
            for cells, at in ((a, left), (b, right))
        ]
        cost = cost + KNOWN * (near[0][:, None] - near[1]).square()
    return cost


def _move_places(places: Tensor, camera: Tensor) -> Tensor:
    """Places (n, 2) seen through a camera (3, 3)."""
    return places @ camera[:2, :2].T + camera[:2, 2]


def _turn(a: _Cells, b: _Cells, plan: Tensor) -> _Cells:
    """Cells turned as the plan says that the others are: by the rotation nearest to it (Kabsch)."""
    u, _, v = torch.linalg.svd(a.normal.T @ plan @ b.normal)
    if torch.linalg.det(u @ v) < 0:  # a mirror image is not a turn
        u = u * torch.tensor([1.0, -1.0])
    return replace(a, normal=a.normal @ (u @ v))


def _continue_moves(moves: Tensor, cells: _Cells) -> Tensor:
    """The moves (n, 2) of the cells as a smooth field (2, h, w) over all of the picture."""
    h, w = cells.shape
    field, weight = torch.zeros(2, h * w), cells.inside.float().reshape(1, h, w)
    field[:, cells.inside] = moves.T
    field = field.reshape(2, h, w)
    near, far = _blur(weight, NEAR), _blur(weight, FAR)
    sure, known = (near / near.max() / 0.15).clamp(0, 1), (far / far.max() / 0.1).clamp(0, 1)
    beyond = known * _blur(field, FAR) / (far + 1e-6)
    return sure * _blur(field, NEAR) / (near + 1e-6) + (1 - sure) * beyond


def _correct_field(field: Tensor, places: Tensor, targets: Tensor) -> Tensor:
    """A field (2, h, w) corrected around places (m, 2) so that these move to their targets exactly."""
    if not len(places):
        return field
    missing = targets - places - place_of(field, places.T[:, :, None])[:, :, 0].T
    kernel = _nearness(places, places) + 1e-5 * torch.eye(len(places))
    weights: Tensor = torch.linalg.solve(kernel, missing)  # (m, 2)
    correction = _nearness(grid(field.shape[1:]).flatten(1).T, places) @ weights
    return field + correction.T.reshape(field.shape)


def _nearness(x: Tensor, y: Tensor) -> Tensor:
    """A Gaussian of the distances between places (n, 2) and (m, 2)."""
    nearness: Tensor = torch.exp(-torch.cdist(x, y).square() / (2 * (2 * REACH) ** 2))
    return nearness


def _confidence(plan: Tensor, a: _Cells, b: _Cells) -> float:
    """Subjects on plain backgrounds always correspond, by their outlines; scenes as far as their features agree."""
    if a.is_plain and b.is_plain:
        return 1.0
    agreement = [float((plan * (h @ k.T)).sum()) for h, k in zip(a.features, b.features, strict=True)]
    low, high = SURE
    return min(max((sum(agreement) / max(len(agreement), 1) - low) / (high - low), 0.0), 1.0)


def _blur(x: Tensor, sigma: float) -> Tensor:
    """A field (C, h, w) smoothed by a Gaussian, held beyond the borders."""
    radius = int(3 * sigma + 0.5)
    line = torch.exp(-torch.arange(-radius, radius + 1).float().square() / (2 * sigma**2))
    line, channels = line / line.sum(), len(x)
    x = F.pad(x[None], (radius,) * 4, mode="replicate")
    x = F.conv2d(x, line.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(x, line.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)[0]


def _border(image: Tensor) -> Tensor:
    """The pixels along the border of a picture, (C, n)."""
    return torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], 1)


def _means(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """The means of a picture over its cells, (h w, C)."""
    return F.adaptive_avg_pool2d(image[None], shape)[0].flatten(1).T


def _shape(image: Tensor) -> tuple[int, int]:
    """How many cells a picture has, (h, w): square ones, as many as 32 x 32 in all."""
    aspect = sqrt(image.shape[2] / image.shape[1])
    return max(4, round(CELLS / aspect)), max(4, round(CELLS * aspect))
