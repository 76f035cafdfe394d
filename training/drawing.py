"""Drawn figures: a random character in a random pose becomes an SVG picture with its exact 18 OpenPose keypoints.

A character is who it is (kind, proportions, clothes, colours, drawing style), a pose is the angles of its limbs. The
same character can be drawn in any pose. Coordinates are in pixels of a 128 x 128 picture, y downwards; a figure's right
side is on the viewer's left.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

__all__ = ["ACTIONS", "STYLES", "Character", "Posture", "caption", "character", "draw", "place", "posture"]

SIZE = 128
STYLES = ("flat", "ink", "line", "stick", "block", "soft")
KINDS = ("man", "woman", "boy", "girl", "robot", "cat", "bear", "rabbit", "fox", "alien")
ACTIONS = (
    "standing",
    "waving",
    "cheering",
    "arms out",
    "hands on hips",
    "walking",
    "running",
    "jumping",
    "kicking",
    "dancing",
)
COLOURS = {
    "red": "#d93a3a", "blue": "#3b6fd4", "green": "#3fa34d", "yellow": "#f2c230", "orange": "#f08a2c",
    "purple": "#8a4fc2", "pink": "#f08fb4", "teal": "#25a5a0", "brown": "#8a5a3a", "grey": "#8e949c",
    "black": "#33343a", "white": "#f4f2ee",
}  # fmt: skip
SKINS = ("#ffd9b8", "#f2be93", "#d99a68", "#a86b42", "#6e4429", "#ffcc4d")
HAIRS = ("#2f2320", "#6b4326", "#b5722f", "#e6c15a", "#9a9a9a", "#c2452d", "#4b3f8f")
FURS = {
    "cat": ("#f2a541", "#8b8f96", "#4a4a52"),
    "bear": ("#8a5a3a", "#c98f5a"),
    "rabbit": ("#e9e2dc", "#b7a79c"),
    "fox": ("#e0702e",),
}
TOPS = ("shirt", "t-shirt", "dress", "coat")
PROPS = ("", "", "", "balloon", "ball", "flag", "wand", "book")
INK = "#26232a"


@dataclass(frozen=True)
class Character:
    """Who is drawn. Lengths are shares of the figure's height; `width` is the limbs' thickness."""

    kind: str
    style: str
    top: str
    top_colour: str
    legs: str
    legs_colour: str
    skin: str
    hair: str
    hairdo: str
    prop: str
    head: float
    width: float
    arm: float
    leg: float
    shoulders: float
    hips: float


@dataclass(frozen=True)
class Posture:
    """Angles in radians: upper limbs from straight down, outwards; bends add to it. Right side first."""

    action: str
    arms: tuple[float, float]
    elbows: tuple[float, float]
    thighs: tuple[float, float]
    knees: tuple[float, float]
    lean: float
    tilt: float
    turn: float


def character(rng: Generator) -> Character:
    """A random character."""
    kind, style = str(rng.choice(KINDS)), str(rng.choice(STYLES))
    colours = list(COLOURS)
    child = kind in ("boy", "girl", "cat", "bear", "rabbit", "fox", "alien")
    top = str(rng.choice(TOPS)) if kind in ("woman", "girl") else str(rng.choice([t for t in TOPS if t != "dress"]))
    top_colour, legs_colour = rng.choice(colours, 2, replace=False)
    return Character(
        kind=kind,
        style=style,
        top=top,
        top_colour=str(top_colour),
        legs=str(rng.choice(["trousers", "shorts"])),
        legs_colour=str(legs_colour),
        skin=str(
            rng.choice(FURS[kind])
            if kind in FURS
            else {"robot": "#b9c2cc", "alien": "#8fd16a"}.get(kind, rng.choice(SKINS))
        ),
        hair=str(rng.choice(HAIRS)),
        hairdo=str(
            rng.choice(["long", "bun", "bob"] if kind in ("woman", "girl") else ["short", "cap", "bald", "curly"])
        ),
        prop=str(rng.choice(PROPS)),
        head=float(rng.uniform(0.13, 0.17) if child else rng.uniform(0.105, 0.135)),
        width=float(rng.uniform(0.055, 0.095)),
        arm=float(rng.uniform(0.34, 0.42)),
        leg=float(rng.uniform(0.36, 0.42) if child else rng.uniform(0.43, 0.5)),
        shoulders=float(rng.uniform(0.09, 0.13)),
        hips=float(rng.uniform(0.05, 0.075)),
    )


def caption(who: Character, how: Posture) -> str:
    """For example "woman in a red dress, waving, ink figure"."""
    article = "an" if who.top_colour[0] in "aeio" else "a"
    return f"{who.kind} in {article} {who.top_colour} {who.top}, {how.action}, {who.style} figure"


def posture(rng: Generator, action: str | None = None) -> Posture:
    """A random pose; `action` names it, or it is drawn too."""
    action = action or str(rng.choice(ACTIONS))
    side = int(rng.integers(2))
    arms, elbows, thighs, knees = [12.0, 12.0], [8.0, 8.0], [6.0, 6.0], [0.0, 0.0]
    spread = 9.0
    if action == "waving":
        arms[side], elbows[side] = 125, 35
    elif action == "cheering":
        arms, elbows = [150, 150], [5, 5]
    elif action == "arms out":
        arms, elbows = [88, 88], [0, 0]
    elif action == "hands on hips":
        arms, elbows = [48, 48], [-92, -92]
    elif action in ("walking", "running"):
        far = 22 if action == "walking" else 42
        arms[side], arms[1 - side], elbows = far + 8, far - 4, [-20, -20] if action == "walking" else [-70, 60]
        thighs[side], thighs[1 - side] = far, far * 0.6
        knees[side], knees[1 - side] = (-10, -5) if action == "walking" else (-35, 55)
    elif action == "jumping":
        arms, elbows, thighs, knees, spread = [115, 115], [15, 15], [38, 38], [-60, -60], 16
    elif action == "kicking":
        arms, thighs[side] = [70, 70], 75
    elif action == "dancing":
        arms, elbows = rng.uniform(20, 165, 2).tolist(), rng.uniform(-90, 90, 2).tolist()
        thighs, knees = rng.uniform(0, 45, 2).tolist(), rng.uniform(-50, 20, 2).tolist()

    def jitter(angles: list[float]) -> tuple[float, float]:
        right, left = np.radians(np.asarray(angles) + rng.normal(0, spread, 2))
        return float(right), float(left)

    return Posture(
        action=action,
        arms=jitter(arms),
        elbows=jitter(elbows),
        thighs=jitter(thighs),
        knees=jitter(knees),
        lean=float(rng.normal(0, 0.1)),
        tilt=float(rng.normal(0, 0.13)),
        turn=float(rng.uniform(-0.5, 0.5)),
    )


def place(who: Character, how: Posture, rng: Generator) -> NDArray[np.float64]:
    """Keypoints (18, 2) in pixels: the skeleton at a random size and place inside the picture."""
    points = skeleton(who, how)
    pad = who.head * 1.1
    low, high = points.min(0) - pad, points.max(0) + np.array([pad, 0.04])
    scale = min(SIZE * rng.uniform(0.8, 0.96) / (high - low).max(), SIZE * 1.02)
    room = SIZE - (high - low) * scale
    placed: NDArray[np.float64] = (points - low) * scale + room * rng.uniform(0.25, 0.75, 2)
    return placed


def skeleton(who: Character, how: Posture) -> NDArray[np.float64]:
    """Keypoints (18, 2) of a figure of height about 1 with its neck at the origin."""
    torso = 1 - who.leg - 2.3 * who.head
    points = np.zeros((18, 2))

    def turn(x: float, y: float, angle: float) -> NDArray[np.float64]:
        return np.array([x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)])

    for k, sign in ((0, -1.0), (1, 1.0)):
        shoulder = turn(sign * who.shoulders, 0.02, how.lean)
        hip = turn(sign * who.hips, torso, how.lean)
        points[2 + 3 * k], points[8 + 3 * k] = shoulder, hip
        for start, length, first, bend, index in (
            (shoulder, who.arm / 2, how.arms[k], how.elbows[k], 3 + 3 * k),
            (hip, who.leg / 2, how.thighs[k], how.knees[k], 9 + 3 * k),
        ):
            middle = start + length * np.array([sign * math.sin(first), math.cos(first)])
            points[index] = middle
            points[index + 1] = middle + length * np.array([sign * math.sin(first + bend), math.cos(first + bend)])
    angle = how.lean + how.tilt
    centre = turn(0, -1.25 * who.head, angle)
    ears = (0.72, -0.62) if who.kind in FURS else (0.97, 0.05)
    for index, (x, y) in {
        0: (0.35 * how.turn, 0.15),
        14: (0.36 * how.turn - 0.36, -0.12),
        15: (0.36 * how.turn + 0.36, -0.12),
        16: (-ears[0], ears[1]),
        17: (ears[0], ears[1]),
    }.items():
        points[index] = centre + who.head * turn(x, y, angle)
    return points


@dataclass(frozen=True)
class Pen:
    """How a style draws: outline width and colour in pixels, whether shapes are filled, whether limbs are boxes."""

    line: float
    filled: bool
    square: bool


def draw(who: Character, points: NDArray[np.float64]) -> str:
    """The SVG picture of a character whose keypoints (18, 2) are given; the background is transparent."""
    neck = points[1]
    hips = (points[8] + points[11]) / 2
    torso = float(np.linalg.norm(hips - neck)) + 1e-6
    unit = torso / (1 - who.leg - 2.3 * who.head)  # Pixels of one figure height.
    pen = {
        "flat": Pen(0, True, False),
        "soft": Pen(0, True, False),
        "ink": Pen(max(1.3, 0.016 * unit), True, False),
        "line": Pen(max(1.0, 0.009 * unit), False, False),
        "stick": Pen(max(1.6, 0.02 * unit), False, False),
        "block": Pen(0.8, True, True),
    }[who.style]
    width = max(1.0, who.width * unit)
    skin, top, legs = who.skin, COLOURS[who.top_colour], COLOURS[who.legs_colour]
    if who.style == "soft":
        skin, top, legs = "url(#skin)", "url(#top)", "url(#legs)"
    parts = [gradients(who)] if who.style == "soft" else []
    if who.style == "stick":
        for chain in ((1, 2, 3, 4), (1, 5, 6, 7), (8, 9, 10), (11, 12, 13), (8, 11)):
            parts.append(
                limb(
                    [points[i] for i in chain], pen.line, COLOURS[who.legs_colour] if 8 in chain or 11 in chain else top
                )
            )
        parts.append(limb([neck, hips], pen.line, top))
        parts.append(limb([neck, neck + (points[0] - neck) * 0.35], pen.line, INK))
    else:
        sleeve = 1.0 if who.top in ("shirt", "coat") else 0.45
        for chain in ((8, 9, 10), (11, 12, 13)):
            if who.top == "dress":
                parts.append(shape_limb(pen, [points[i] for i in chain], width, skin))
            else:
                parts.append(
                    shape_limb(pen, [points[i] for i in chain], width * 1.05, skin if who.legs == "shorts" else legs)
                )
                if who.legs == "shorts":
                    end = points[chain[0]] + (points[chain[1]] - points[chain[0]]) * 0.8
                    parts.append(shape_limb(pen, [points[chain[0]], end], width * 1.2, legs))
            foot = points[chain[2]] + np.array([np.sign(points[chain[2]][0] - hips[0]) * width * 0.45, width * 0.12])
            parts.append(shape_limb(pen, [points[chain[2]], foot], width * 0.95, "#4a3b36"))
        parts.append(trunk(pen, who, points, width, top, legs))
        for chain in ((2, 3, 4), (5, 6, 7)):
            parts.append(shape_limb(pen, [points[i] for i in chain], width * 0.82, skin))
            if sleeve == 1.0:
                cuff = points[chain[1]] + (points[chain[2]] - points[chain[1]]) * 0.7
                parts.append(shape_limb(pen, [points[chain[0]], points[chain[1]], cuff], width * 0.95, top))
            else:
                cuff = points[chain[0]] + (points[chain[1]] - points[chain[0]]) * 0.7
                parts.append(shape_limb(pen, [points[chain[0]], cuff], width * 0.98, top))
            parts.append(shape_disc(pen, points[chain[2]], width * 0.5, skin))
    parts.append(prop(pen, who, points[7], unit))
    parts.append(head(pen, who, points, unit, skin))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" width="{SIZE}" height="{SIZE}" '
        f'stroke-linecap="{"square" if pen.square else "round"}" stroke-linejoin="round">{"".join(parts)}</svg>'
    )


def gradients(who: Character) -> str:
    """Vertical gradients for the soft style."""
    colours = {"skin": who.skin, "top": COLOURS[who.top_colour], "legs": COLOURS[who.legs_colour]}
    return "<defs>" + "".join(
        f'<linearGradient id="{name}" gradientUnits="userSpaceOnUse" x1="20" y1="0" x2="{SIZE - 20}" y2="{SIZE}">'
        f'<stop offset="0" stop-color="{blend(colour, 255, 0.35)}"/>'
        f'<stop offset="1" stop-color="{blend(colour, 20, 0.35)}"/>'
        f"</linearGradient>"
        for name, colour in colours.items()
    ) + "</defs>"  # fmt: skip


def blend(colour: str, towards: int, share: float) -> str:
    """A hexadecimal colour mixed with a grey."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (towards - part) * share):02x}" for part in parts)


def path(points: list[NDArray[np.float64]], closed: bool = False) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points) + ("Z" if closed else "")


def limb(points: list[NDArray[np.float64]], width: float, colour: str) -> str:
    return f'<path d="{path(points)}" fill="none" stroke="{colour}" stroke-width="{width:.2f}"/>'


def shape_limb(pen: Pen, points: list[NDArray[np.float64]], width: float, colour: str) -> str:
    """A thick limb, with its outline where the style has one."""
    under = limb(points, width + 2 * pen.line, INK) if pen.line else ""
    return under + limb(points, width, colour if pen.filled else "#ffffff")


def shape_disc(pen: Pen, centre: NDArray[np.float64], radius: float, colour: str) -> str:
    stroke = f' stroke="{INK}" stroke-width="{pen.line:.2f}"' if pen.line else ""
    fill = colour if pen.filled else "#ffffff"
    if pen.square:
        x, y = centre - radius
        side, corner = 2 * radius, radius * 0.15
        box = f'x="{x:.2f}" y="{y:.2f}" width="{side:.2f}" height="{side:.2f}" rx="{corner:.2f}"'
        return f'<rect {box} fill="{fill}"{stroke}/>'
    return f'<circle cx="{centre[0]:.2f}" cy="{centre[1]:.2f}" r="{radius:.2f}" fill="{fill}"{stroke}/>'


def shape(pen: Pen, points: list[NDArray[np.float64]], colour: str, grow: float = 0.0) -> str:
    """A closed polygon, its corners rounded by a stroke of its own colour."""
    fill = colour if pen.filled else "#ffffff"
    outline = (
        f'<path d="{path(points, True)}" fill="{INK}" stroke="{INK}" stroke-width="{grow + 2 * pen.line:.2f}"/>'
        if pen.line
        else ""
    )
    return outline + f'<path d="{path(points, True)}" fill="{fill}" stroke="{fill}" stroke-width="{grow:.2f}"/>'


def trunk(pen: Pen, who: Character, points: NDArray[np.float64], width: float, top: str, legs: str) -> str:
    """The torso with its garment."""
    right, left, right_hip, left_hip = points[2], points[5], points[8], points[11]
    across = (left_hip - right_hip) * 0.25
    down = (right_hip + left_hip - right - left) / 2
    parts = []
    if who.top in ("shirt", "t-shirt"):
        parts.append(
            shape(
                pen,
                [right_hip - across * 0.4, left_hip + across * 0.4, left_hip - down * 0.15, right_hip - down * 0.15],
                legs,
                width,
            )
        )
    hem = {"shirt": -0.06, "t-shirt": -0.06, "coat": 0.38, "dress": 0.62}[who.top]
    flare = {"shirt": 0.2, "t-shirt": 0.2, "coat": 0.9, "dress": 2.2}[who.top]
    corners = [right, left, left_hip + across * flare + down * hem, right_hip - across * flare + down * hem]
    parts.append(shape(pen, corners, top, width * 0.9))
    if who.top == "coat":
        parts.append(limb([points[1], (corners[2] + corners[3]) / 2], max(0.8, width * 0.1), INK))
    return "".join(parts)


def prop(pen: Pen, who: Character, hand: NDArray[np.float64], unit: float) -> str:
    """What the left hand holds."""
    colour = COLOURS[who.legs_colour]
    up = np.array([0.0, -1.0])
    thin = max(1.0, 0.012 * unit)
    if who.prop == "balloon":
        return limb([hand, hand + up * 0.16 * unit], thin, INK) + shape_disc(
            pen, hand + up * 0.22 * unit, 0.075 * unit, colour
        )
    if who.prop == "ball":
        return shape_disc(pen, hand, 0.06 * unit, colour)
    if who.prop == "flag":
        tip = hand + up * 0.26 * unit
        cloth = [tip, tip + np.array([0.15, 0.05]) * unit, tip + np.array([0.0, 0.11]) * unit]
        return limb([hand, tip], thin * 1.3, INK) + shape(pen, cloth, colour)
    if who.prop == "wand":
        return limb([hand, hand + np.array([0.09, -0.12]) * unit], thin * 1.5, INK)
    if who.prop == "book":
        box = [hand + np.array(p) * unit for p in ((-0.05, -0.06), (0.05, -0.06), (0.05, 0.06), (-0.05, 0.06))]
        return shape(pen, box, colour)
    return ""


def head(pen: Pen, who: Character, points: NDArray[np.float64], unit: float, skin: str) -> str:
    """Head, hair, ears and face; the face's keypoints lie exactly where they are drawn."""
    radius = who.head * unit
    middle, across = (points[16] + points[17]) / 2, (points[17] - points[16]) / np.linalg.norm(points[17] - points[16])
    up = np.array([across[1], -across[0]])
    centre = middle - up * radius * (0.62 if who.kind in FURS else -0.05)
    hair = {"robot": "#6d7681", "alien": "#4e8f3a"}.get(who.kind, who.hair)
    parts = []
    human = who.kind in ("man", "woman", "boy", "girl")
    if human and who.hairdo in ("long", "bob") and who.style != "stick":
        length = 1.6 if who.hairdo == "long" else 0.75
        sides = [
            centre + across * radius * s - up * radius * d
            for s, d in ((-1.0, -0.2), (1.0, -0.2), (1.05, length), (-1.05, length))
        ]
        parts.append(shape(pen, sides, hair, radius * 0.3))
    for ear in (points[16], points[17]):
        if who.kind == "rabbit":
            parts.append(shape_limb(pen, [ear, ear + up * radius * 0.95], radius * 0.42, skin))
        elif who.kind in ("cat", "fox"):
            outward = across * (1 if ear is points[17] else -1) * radius
            side = across * radius * 0.34
            parts.append(
                shape(
                    pen,
                    [
                        ear - side - up * radius * 0.2,
                        ear + side - up * radius * 0.2,
                        ear + up * radius * 0.55 + outward * 0.1,
                    ],
                    skin,
                    1.0,
                )
            )
        else:
            parts.append(shape_disc(pen, ear, radius * (0.36 if who.kind == "bear" else 0.2), skin))
    if human and who.hairdo == "bun" and who.style != "stick":
        parts.append(shape_disc(pen, centre + up * radius * 1.15, radius * 0.4, hair))
    parts.append(shape_disc(pen, centre, radius, skin))
    if human and who.hairdo != "bald":
        parts.append(fringe(pen, who, centre, across, up, radius, hair))
    if who.kind == "robot":
        parts.append(limb([centre + up * radius, centre + up * radius * 1.4], max(1.0, radius * 0.1), INK))
        parts.append(shape_disc(pen, centre + up * radius * 1.45, radius * 0.16, "#d93a3a"))
    if who.kind in FURS:
        parts.append(shape_disc(pen, points[0] - up * radius * 0.15, radius * 0.38, "#fff4e6") if pen.filled else "")
    eye = radius * (0.2 if who.kind == "alien" else 0.11)
    for index in (14, 15):
        x, y = points[index]
        parts.append(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{max(0.8, eye):.2f}" fill="{INK}"/>')
    x, y = points[0]
    nose = INK if who.kind in FURS or not pen.filled else "#b5654a"
    parts.append(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{max(0.7, radius * 0.11):.2f}" fill="{nose}"/>')
    corner = points[0] - up * radius * 0.32
    mouth = [corner - across * radius * 0.26, corner - up * radius * 0.14, corner + across * radius * 0.26]
    parts.append(limb(mouth, max(0.7, radius * 0.09), INK))
    return "".join(parts)


def fringe(
    pen: Pen,
    who: Character,
    centre: NDArray[np.float64],
    across: NDArray[np.float64],
    up: NDArray[np.float64],
    radius: float,
    hair: str,
) -> str:
    """The hair or cap on top of a head: the part of a disc above a chord."""
    height = 0.35
    reach = math.sqrt(1 - height**2)
    start, end = (centre + up * radius * height + across * radius * reach * s for s in (-1, 1))
    colour = COLOURS[who.legs_colour] if who.hairdo == "cap" else hair
    fill = colour if pen.filled else ("#ffffff" if who.style == "line" else "none")
    stroke = f' stroke="{INK}" stroke-width="{pen.line:.2f}"' if pen.line else ""
    size = radius * (1.06 if who.hairdo != "curly" else 1.18)
    arc = f"A{size:.2f} {size:.2f} 0 0 1 {end[0]:.2f} {end[1]:.2f}Z"
    parts = f'<path d="M{start[0]:.2f} {start[1]:.2f}{arc}" fill="{fill}"{stroke}/>'
    if who.hairdo == "cap":
        parts += shape_limb(pen, [start, start - across * radius * 0.45], radius * 0.16, colour)
    return parts
