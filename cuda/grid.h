// A grid of cells in lines, and the chains of every gap along them: what the GPU and the CPU share.
//
// The includer defines DEVICE: what a function must be called to be usable here (`__device__` or nothing).
#pragma once

typedef long long Index;

constexpr int MAX_GAPS = 64;

// Lines 0 are the rows of the grid, lines 1 its columns, image after image. `lines` counts blocks of vectors,
// `valid` real lines.
struct Problem {
    int images;
    int labels;
    int gaps;
    int lines[2];
    int valid[2];
    int length[2];
    int gap[MAX_GAPS];
};

// Sums of weights below `smallest` have lost terms, or digits, that count. It cannot happen if the scores of no edge
// lie further apart than `spread`.
template <class T>
struct Range;
template <>
struct Range<float> {
    static constexpr float log_smallest = -46, spread = 40;
};
template <>
struct Range<double> {
    static constexpr double log_smallest = -230, spread = 220;
};

// What a message has beside a number for each label.
constexpr int EXTRAS = 3;

// One chain (or one vector of chains): `count` cells, `gap` apart, from `cell` of theta and `edge` on.
struct Chain {
    Index cell;
    Index edge;
    int count;
    int gap;
    int line;
    int axis;
};

// A strided array [N, rows, h, w] of the caller.
template <class T>
struct Plain {
    T* first;
    Index stride[4];

    // The images from the n-th on.
    DEVICE Plain from(Index n) const { return {first + n * stride[0], {stride[0], stride[1], stride[2], stride[3]}}; }
};

DEVICE inline Index cells(const Problem& p) {
    return Index(p.lines[0]) * p.length[0] + Index(p.lines[1]) * p.length[1];
}

DEVICE inline int smaller(int a, int b) { return a < b ? a : b; }
DEVICE inline int larger(int a, int b) { return a > b ? a : b; }

// Where the edges of a gap along an axis begin, if every edge has its own scores.
DEVICE inline Index first_edge(const Problem& p, int axis, int gap_index) {
    Index edges = 0;
    for (int a = 0; a <= axis; ++a)
        for (int g = 0; g < (a == axis ? gap_index : p.gaps); ++g)
            edges += Index(p.lines[a]) * larger(0, p.length[a] - p.gap[g]);
    return edges;
}

// How many chains one line along an axis has.
DEVICE inline int chains_of_line(const Problem& p, int axis) {
    int number = 0;
    for (int g = 0; g < p.gaps; ++g) number += smaller(p.gap[g], p.length[axis]);
    return number;
}

DEVICE inline Index number_of_chains(const Problem& p) {
    return Index(p.lines[0]) * chains_of_line(p, 0) + Index(p.lines[1]) * chains_of_line(p, 1);
}

// Where the i-th cell and the i-th edge lie, walking in a direction.
DEVICE inline Index cell_of(const Chain& c, int direction, int i) {
    return c.cell + Index(direction ? c.count - 1 - i : i) * c.gap;
}
DEVICE inline Index edge_of(const Chain& c, int direction, int i) {
    return c.edge + Index(direction ? c.count - 2 - i : i) * c.gap;
}
