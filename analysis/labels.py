"""labels.py - names beside points, so that they cover neither each other nor the data."""

import math

DISTANCES = (9, 13, 18, 25, 34, 45, 58, 74, 95, 120)  # pixels at 100 dpi, point to label
ANGLES = [math.radians(a) for a in (0, 180, 90, 270, 45, 135, 315, 225, 20, 160, 340, 200, 65,
                                    115, 245, 295)]
LEADER = 11  # pixels at 100 dpi: a label further away than this gets a line to its point
# What a label avoids, by weight: a pixel of overlap, or one line through something.
OUTSIDE, ON_LABEL, ON_MARK, CROSSING, AMBIGUOUS, PER_PIXEL = 50.0, 20.0, 6.0, 60.0, 40.0, 0.6


def _overlap(a, b):
    """Common area of two boxes (x0, y0, x1, y1)."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    return w * h if w > 0 and h > 0 else 0.0


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def nearest(box, point):
    """The point of a box that is nearest to a point: where its leader line ends."""
    return (min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3]))


def _side(a, b, p):
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])


def _crosses(s, t):
    """Whether two segments ((x, y), (x, y)) cross."""
    return (_side(*s, t[0]) * _side(*s, t[1]) < 0) and (_side(*t, s[0]) * _side(*t, s[1]) < 0)


def _through(segment, box):
    x0, y0, x1, y1 = box
    diagonals = (((x0, y0), (x1, y1)), ((x0, y1), (x1, y0)))
    return any(_crosses(segment, d) for d in diagonals)


def _candidates(point, size, scale):
    """Boxes around a point, nearest first, each with its distance."""
    w, h = size
    for distance in DISTANCES:
        for angle in ANGLES:
            c, s = math.cos(angle), math.sin(angle)
            # The box touches the ray's end with the side or corner that faces the point.
            x = point[0] + c * distance * scale + (0.5 * c - 0.5) * w
            y = point[1] + s * distance * scale + (0.5 * s - 0.5) * h
            yield distance, (x, y, x + w, y + h)


def _cost(i, box, distance, points, boxes, obstacles, frame, scale):
    leader = (points[i], nearest(box, points[i]))
    own = math.dist(*leader)
    cost = PER_PIXEL * distance + OUTSIDE * (_area(box) - _overlap(box, frame))
    cost += sum(ON_MARK * _overlap(box, other) for other in obstacles)
    for k, other in enumerate(boxes):
        if k == i:
            continue
        apart = math.dist(points[k], points[i]) > 4 * scale
        if apart and math.dist(nearest(box, points[k]), points[k]) < 1.2 * own:
            cost += AMBIGUOUS  # it would be read as the name of another point
        if other is None:
            continue
        cost += ON_LABEL * _overlap(box, other)
        theirs = (points[k], nearest(other, points[k]))
        cost += CROSSING * (_through(leader, other) + _through(theirs, box))
        cost += CROSSING * _crosses(leader, theirs)
    return cost


def place(points, sizes, obstacles, frame, scale):
    """A box for each label.

    points [(x, y)] and sizes [(w, h)] in pixels; obstacles: boxes of markers, error bars and
    lines; frame: the box to stay in; scale: dpi / 100.  The most crowded point chooses first;
    further rounds let each label move once the others are known.  The same input gives the same
    result.
    """
    n = len(points)
    crowd = [sum(math.dist(p, q) < 90 * scale for q in points) for p in points]
    order = sorted(range(n), key=lambda i: (-crowd[i], points[i]))
    boxes = [None] * n
    for _ in range(5):
        for i in order:
            boxes[i] = min(
                _candidates(points[i], sizes[i], scale),
                key=lambda c: _cost(i, c[1], c[0], points, boxes, obstacles, frame, scale),
            )[1]
    return boxes
