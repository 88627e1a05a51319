// What the passes over sigmoids are about; sigmoids.cpp and sigmoids.cu use it. common/kernels/sigmoids.py has the
// same structure.
//
// Logits of `classes` numbers per pixel are either a map per class, or all numbers of a pixel lie together
// (`together`). Squares of side x side pixels are cells; the first begins `padding` pixels outside the image. Those
// of `rows` x `columns` are pooled; what may lie beyond is not, but counts for the cross-entropy.
#pragma once

typedef long long Index;

struct Pixels {
    int images, classes, height, width;
    int side, padding, rows, columns;
    int together, ignored;
};

DEVICE inline Index pixels_of(const Pixels& p) { return Index(p.height) * p.width; }

// From a pixel to the next, and from a class to the next.
DEVICE inline Index pixel_step(const Pixels& p) { return p.together ? p.classes : 1; }
DEVICE inline Index class_step(const Pixels& p) { return p.together ? 1 : pixels_of(p); }

// Cells along a side of the image, those included that are not pooled.
DEVICE inline int cells_along(const Pixels& p, int length) { return (length + p.padding + p.side - 1) / p.side; }

// The class of a pixel, or -1 where it is none.
DEVICE inline int class_of(const Pixels& p, Index label) {
    return label == p.ignored || label < 0 || label >= p.classes ? -1 : int(label);
}
