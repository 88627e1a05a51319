// The chains on a GPU: a warp per chain and direction, a lane per label. Compiled by NVRTC with
// SCALAR = float or double; arrays are packed with one line per block (V = SCALAR).
#define DEVICE __device__
#define LANE int(threadIdx.x)
#define LANES 32
#define BARRIER __syncwarp()

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
    weigh<SCALAR, SCALAR>(labels, scale, score + i * size, weight + i * (size + 1),
                          reinterpret_cast<SCALAR*>(shared_memory));
}

// Grid: 2 * number_of_chains blocks of a warp. maxima: [chains].
extern "C" __global__ void __launch_bounds__(LANES)
    messages(const Problem p, const SCALAR* gamma, const SCALAR* theta, const Scores<SCALAR> scores, SCALAR* message,
             SCALAR* maxima) {
    const Index index = blockIdx.x / 2, layer = p.gaps * cells(p);
    const int direction = blockIdx.x % 2;
    const Chain c = chain_at(p, scores.right != nullptr, index);
    walk(p, c, direction, *gamma, theta, scores, message + direction * layer * (p.labels + EXTRAS), maxima + index,
         reinterpret_cast<SCALAR*>(shared_memory));
}

// Grid: as above. entropies: [2 * chains].
extern "C" __global__ void __launch_bounds__(LANES)
    messages_backward(const Problem p, const SCALAR* gamma, int by_gamma, const SCALAR* weights, const SCALAR* theta,
                      const Scores<SCALAR> scores, const SCALAR* message, const SCALAR* given, SCALAR* carried,
                      SCALAR* entropies) {
    const Index index = blockIdx.x / 2, layer = p.gaps * cells(p);
    const int direction = blockIdx.x % 2;
    const Chain c = chain_at(p, scores.right != nullptr, index);
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
    if (scores.right) FOR_LANES(t, size) left_out[place * size + t] = right_out[place * size + t] = 0;
    for (int g = 0; g < p.gaps; ++g) {
        const int gap = p.gap[g];
        const Index cell = g * cells(p) + place;
        if (i + gap < length) {
            const Index edge = scores.right ? place : first_edge(p, axis, g) + line * (length - gap) + i;
            if (!scores.right) FOR_LANES(t, size) left_out[edge * size + t] = 0;
            edge_derivative<SCALAR, SCALAR>(p, cell, cell + gap, edge, gap, *gamma, iterations, layer, theta, scores,
                                            message, carried, left_out + edge * size, nullptr, scratch);
        }
        if (scores.right && i >= gap)
            edge_derivative<SCALAR, SCALAR>(p, cell - gap, cell, place - gap, gap, *gamma, iterations, layer, theta,
                                            scores, message, carried, nullptr, right_out + place * size, scratch);
    }
}
