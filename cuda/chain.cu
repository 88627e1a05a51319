// The chains on a GPU: a warp per chain and direction, a lane per label. Compiled by NVRTC with
// SCALAR = float or double; arrays are packed with one line per block (V = SCALAR).
#define DEVICE __device__
#define LANE int(threadIdx.x)
#define LANES 32
#define BARRIER __syncwarp()
#define PREFETCH(address)

DEVICE inline float exponential(float x) { return expf(x); }
DEVICE inline double exponential(double x) { return exp(x); }
DEVICE inline float logarithm(float x) { return logf(x); }
DEVICE inline double logarithm(double x) { return log(x); }
DEVICE inline bool any_less(SCALAR a, SCALAR b) { return a < b; }

#include "chain.h"

extern __shared__ double shared_memory[];

// The sum over a warp, always in the same order.
DEVICE inline SCALAR warp_sum(SCALAR value) {
    for (int distance = LANES / 2; distance; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

// Grid: a block of a warp per edge or cell of the scores.
extern "C" __global__ void __launch_bounds__(LANES)
    weigh(int labels, const SCALAR* gamma, const SCALAR* score, SCALAR* weight) {
    const Index size = Index(labels) * labels, i = blockIdx.x;
    const SCALAR scale = *gamma > 0 ? 1 / *gamma : SCALAR(1);
    weigh<SCALAR, SCALAR>(int(size), scale, score + i * size, weight + i * (size + 1),
                          reinterpret_cast<SCALAR*>(shared_memory));
}

// Grid: 2 * number_of_chains blocks of a warp. maxima: [chains].
extern "C" __global__ void __launch_bounds__(LANES)
    messages(const Problem p, const SCALAR* gamma, const SCALAR* theta, const Scores<SCALAR> scores, SCALAR* message,
             SCALAR* maxima) {
    const Index index = blockIdx.x / 2, layer = p.gaps * cells(p);
    const int direction = blockIdx.x % 2;
    const Chain c = chain_at(p, scores.factored(), index);
    walk(p, c, direction, *gamma, theta, scores, message + direction * layer * (p.labels + EXTRAS), maxima + index,
         reinterpret_cast<SCALAR*>(shared_memory));
}

// One label of one cell of the grid, and where the cell lies among the packed rows and columns.
struct Place {
    Index cell[2];
    int label;
    bool inside;
};

// Plain arrays are [images, h, w, K] here: the threads of a warp read and write neighbouring numbers.
DEVICE inline Place place_at(const Problem& p, Index index) {
    const int w = p.length[0], h = p.length[1];
    Place place;
    place.label = int(index % p.labels);
    const Index at = index / p.labels, image = at / (Index(h) * w);
    const int y = int(at / w % h), x = int(at % w);
    place.cell[0] = at;
    place.cell[1] = Index(p.lines[0]) * w + (image * w + x) * h + y;
    place.inside = image < p.images;
    return place;
}

// Grid: a thread per label and cell of the grid. total: the sum over a cell's chains.
extern "C" __global__ void __launch_bounds__(LANES)
    marginals(const Problem p, const SCALAR* theta, const SCALAR* message, SCALAR* out, SCALAR* total) {
    const Index index = Index(blockIdx.x) * LANES + LANE;
    const Place place = place_at(p, index);
    if (!place.inside) return;
    SCALAR sum = 0;
    for (int axis = 0; axis < 2; ++axis)
        for (int g = 0; g < p.gaps; ++g) {
            const Index cell = g * cells(p) + place.cell[axis];
            const SCALAR value = marginal(p, cell, place.label, theta, message);
            out[cell * p.labels + place.label] = value;
            sum += value;
        }
    total[index] = sum;
}

// Grid: as above. Adds to `following` the derivative by theta, carried[0] + carried[1] - given.
extern "C" __global__ void __launch_bounds__(LANES)
    collect(const Problem p, const SCALAR* carried, const SCALAR* given, SCALAR* following, SCALAR* total) {
    const Index index = Index(blockIdx.x) * LANES + LANE, layer = p.gaps * cells(p) * p.labels;
    const Place place = place_at(p, index);
    if (!place.inside) return;
    SCALAR sum = 0;
    for (int axis = 0; axis < 2; ++axis)
        for (int g = 0; g < p.gaps; ++g) {
            const Index i = (g * cells(p) + place.cell[axis]) * p.labels + place.label;
            sum += following[i] += carried[i] + carried[layer + i] - given[i];
        }
    total[index] = sum;
}

// Grid: as above. out = base - step * (values - the mean over a cell's chains); base may be null.
extern "C" __global__ void __launch_bounds__(LANES)
    agree(const Problem p, const SCALAR* total, double step, const SCALAR* base, const SCALAR* values, SCALAR* out) {
    const Index index = Index(blockIdx.x) * LANES + LANE;
    const Place place = place_at(p, index);
    if (!place.inside) return;
    const SCALAR mean = total[index] / (2 * p.gaps);
    for (int axis = 0; axis < 2; ++axis)
        for (int g = 0; g < p.gaps; ++g) {
            const Index i = (g * cells(p) + place.cell[axis]) * p.labels + place.label;
            out[i] = (base ? base[i] : 0) - SCALAR(step) * (values[i] - mean);
        }
}

// Grid: as above, of chains. entropies: [2 * chains].
extern "C" __global__ void __launch_bounds__(LANES)
    messages_backward(const Problem p, const SCALAR* gamma, int by_gamma, const SCALAR* weights, const SCALAR* theta,
                      const Scores<SCALAR> scores, const SCALAR* message, const SCALAR* given, SCALAR* carried,
                      SCALAR* entropies) {
    const Index index = blockIdx.x / 2, layer = p.gaps * cells(p);
    const int direction = blockIdx.x % 2;
    const Chain c = chain_at(p, scores.factored(), index);
    const SCALAR entropy = warp_sum(walk_back(
        p, c, direction, *gamma, by_gamma, weights, theta, scores, message + direction * layer * (p.labels + EXTRAS),
        given, carried + direction * layer * p.labels, reinterpret_cast<SCALAR*>(shared_memory)));
    if (LANE == 0) entropies[blockIdx.x] = entropy;
}

// Grid: a block of a warp per cell of rows and columns. It owns the scores of the edges that begin
// there, or, factored, of that cell as either end, so that no two warps add to the same number.
extern "C" __global__ void __launch_bounds__(LANES)
    scores_backward(const Problem p, const SCALAR* gamma, int iterations, const SCALAR* theta,
                    const Scores<SCALAR> scores, const SCALAR* message, const SCALAR* carried, SCALAR* left_out,
                    SCALAR* right_out) {
    SCALAR* scratch = reinterpret_cast<SCALAR*>(shared_memory);
    const Index place = blockIdx.x, rows = Index(p.lines[0]) * p.length[0], layer = p.gaps * cells(p);
    const int size = p.labels * p.labels;
    const int axis = place >= rows, length = p.length[axis];
    const Index line = (place - (axis ? rows : 0)) / length;
    const int i = int((place - (axis ? rows : 0)) % length);
    if (scores.factored()) FOR_LANES(t, size) left_out[place * size + t] = right_out[place * size + t] = 0;
    for (int g = 0; g < p.gaps; ++g) {
        const int gap = p.gap[g];
        const Index cell = g * cells(p) + place;
        if (i + gap < length) {
            const Index edge = scores.factored() ? place : first_edge(p, axis, g) + line * (length - gap) + i;
            if (!scores.factored()) FOR_LANES(t, size) left_out[edge * size + t] = 0;
            edge_derivative<SCALAR, SCALAR>(p, cell, cell + gap, edge, gap, *gamma, iterations, layer, theta, scores,
                                            message, carried, left_out + edge * size, nullptr, scratch);
        }
        if (scores.factored() && i >= gap)
            edge_derivative<SCALAR, SCALAR>(p, cell - gap, cell, place - gap, gap, *gamma, iterations, layer, theta,
                                            scores, message, carried, nullptr, right_out + place * size, scratch);
    }
}
