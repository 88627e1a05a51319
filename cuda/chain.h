// Soft max-marginals of many chains: the routines of one chain, written once for GPU and CPU.
//
// The includer defines, before including this file:
//   DEVICE        what a function must be called to be usable here (`__device__` or nothing)
//   LANE, LANES   which of how many threads, working together on one chain, this one is
//   BARRIER       what makes the threads of a chain see each other's scratch memory
//   exponential(x), logarithm(x)  for V; exponential of a very negative number is 0, never NaN
//
// V is what one thread computes on: a number on the GPU (a warp per chain, a lane per label), a short
// vector of numbers of neighbouring chains on the CPU (one thread, LANES = 1). All scores are in units
// of gamma in here, so that gamma is 1 in every formula: s = scale * score.
//
// Words and arrays (methods/ddcrf.py has the formulas):
//   cell      one place of one line of the grid, in the packed order that Python made
//   theta     [gaps, cells, K]      unary scores of the chains of each gap
//   message   [gaps, cells, K + 2]  what arrives at a cell along its chain, from the side of the
//             chain's start (direction 0) or end (direction 1): K numbers z with maximum 0, then the
//             maximum that was taken out in this step, then all that was taken out up to here.
//             Long chains have large scores; without this their differences would lose digits.
//   left      [edges, K, K] scores of the edges; or, if there is a `right`, [cells, K, K] of the earlier
//             ends, to which those of the later ends are added
#pragma once

typedef long long Index;

constexpr int MAX_GAPS = 64;

// Lines 0 are the rows of the grid, lines 1 its columns, image after image. `lines` counts blocks of V,
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

// One chain (or one V of chains): `count` cells, `gap` apart, from `cell` of theta and `edge` on.
struct Chain {
    Index cell;
    Index edge;
    int count;
    int gap;
    int line;
    int axis;
};

#define FOR_LANES(t, n) for (int t = LANE; t < (n); t += LANES)

DEVICE inline Index cells(const Problem& p) {
    return Index(p.lines[0]) * p.length[0] + Index(p.lines[1]) * p.length[1];
}

DEVICE inline int smaller(int a, int b) { return a < b ? a : b; }
DEVICE inline int larger(int a, int b) { return a > b ? a : b; }

// Where the edges of a gap along an axis begin in `left`, if every edge has its own scores.
DEVICE inline Index first_edge(const Problem& p, int axis, int gap_index) {
    Index edges = 0;
    for (int a = 0; a <= axis; ++a)
        for (int g = 0; g < (a == axis ? gap_index : p.gaps); ++g)
            edges += Index(p.lines[a]) * larger(0, p.length[a] - p.gap[g]);
    return edges;
}

// Finds chain number `index`: axis by axis, gap by gap, line by line.
DEVICE inline Chain chain_at(const Problem& p, bool factored, Index index) {
    Chain c = {0, 0, 0, 1, 0, 0};
    for (int axis = 0; axis < 2; ++axis) {
        for (int g = 0; g < p.gaps; ++g) {
            const int length = p.length[axis], gap = p.gap[g], starts = smaller(gap, length);
            const Index number = Index(p.lines[axis]) * starts;
            if (index >= number) {
                index -= number;
                continue;
            }
            const Index line = index / starts;
            const int start = int(index % starts);
            const Index place = (axis ? Index(p.lines[0]) * p.length[0] : 0) + line * length + start;
            c.cell = g * cells(p) + place;
            c.edge = factored ? place : first_edge(p, axis, g) + line * larger(0, length - gap) + start;
            c.count = (length - start + gap - 1) / gap;
            c.gap = gap;
            c.line = int(line);
            c.axis = axis;
            return c;
        }
    }
    return c;
}

DEVICE inline Index number_of_chains(const Problem& p) {
    Index number = 0;
    for (int axis = 0; axis < 2; ++axis)
        for (int g = 0; g < p.gaps; ++g)
            number += Index(p.lines[axis]) * smaller(p.gap[g], p.length[axis]);
    return number;
}

// Where the i-th cell and the i-th edge lie, walking in a direction.
DEVICE inline Index cell_of(const Chain& c, int direction, int i) {
    return c.cell + Index(direction ? c.count - 1 - i : i) * c.gap;
}
DEVICE inline Index edge_of(const Chain& c, int direction, int i) {
    return c.edge + Index(direction ? c.count - 2 - i : i) * c.gap;
}

template <class V>
DEVICE inline V larger_of(V a, V b) {
    return a > b ? a : b;
}

template <class V>
DEVICE inline V maximum(const V* values, int n) {
    V m = values[0];
    for (int i = 1; i < n; ++i) m = larger_of(m, values[i]);
    return m;
}

// Scratch of K rows, an odd number of columns: neither rows nor columns collide in the GPU's banks.
DEVICE inline int row_length(int labels) { return LANES > 1 ? labels | 1 : labels; }

template <class V, class T>
DEVICE inline void load_edge(const V* left, const V* right, Index edge, int gap, int labels, T scale, V* out) {
    const Index size = Index(labels) * labels;
    const V* first = left + edge * size;
    const V* second = right ? right + (edge + gap) * size : nullptr;
    const int stride = row_length(labels);
    for (int a = 0; a < labels; ++a)
        FOR_LANES(b, labels) {
            const V score = second ? first[a * labels + b] + second[a * labels + b] : first[a * labels + b];
            out[a * stride + b] = score * scale;
        }
}

// Numbers of V that the routines need as scratch.
DEVICE inline Index scratch_size(int labels) { return Index(labels) * (row_length(labels) + 8); }

// Walks a chain once and writes its messages; in direction 0 also its maximum: the value of the dual.
template <class V, class T>
DEVICE inline void walk(const Problem& p, const Chain& c, int direction, T gamma, const V* theta, const V* left,
                        const V* right, V* message, V* dual, V* scratch) {
    const int K = p.labels, width = K + 2, stride = row_length(K);
    const int sender = direction ? 1 : stride, receiver = direction ? stride : 1;
    const bool soft = gamma > 0;
    const T scale = soft ? 1 / gamma : T(1);
    V* edge = scratch;
    V* reach = edge + Index(K) * stride;  // what a label of the sending cell has gathered so far
    V* raw = reach + K;
    V total = V{};
    Index from = cell_of(c, direction, 0);
    FOR_LANES(t, width) message[from * width + t] = V{};
    FOR_LANES(t, K) reach[t] = theta[from * K + t];
    for (int i = 0; i + 1 < c.count; ++i) {
        const Index to = cell_of(c, direction, i + 1);
        load_edge(left, right, edge_of(c, direction, i), c.gap, K, scale, edge);
        BARRIER;
        FOR_LANES(t, K) {
            const V* score = edge + t * receiver;
            V m = reach[0] + score[0];
            for (int s = 1; s < K; ++s) m = larger_of(m, reach[s] + score[s * sender]);
            if (soft) {
                V sum = V{};
                for (int s = 0; s < K; ++s) sum += exponential(reach[s] + score[s * sender] - m);
                m += logarithm(sum);
            }
            raw[t] = m;
        }
        BARRIER;
        const V shift = maximum(raw, K);
        total += shift;
        FOR_LANES(t, K) {
            const V z = raw[t] - shift;
            message[to * width + t] = z;
            reach[t] = theta[to * K + t] + z;
        }
        if (LANE == 0) {
            message[to * width + K] = shift;
            message[to * width + K + 1] = total;
        }
        from = to;
    }
    if (direction == 1) return;
    BARRIER;
    V m = maximum(reach, K);
    if (soft) {
        V sum = V{};
        for (int s = 0; s < K; ++s) sum += exponential(reach[s] - m);
        m += logarithm(sum);
    }
    if (LANE == 0) *dual = total + m;
}

// The first label with the largest value, as a V.
template <class V, class T>
DEVICE inline V best_of(const V* values, int labels) {
    V m = values[0], best = V{};
    for (int s = 1; s < labels; ++s) {
        best = values[s] > m ? V{} + T(s) : best;
        m = larger_of(m, values[s]);
    }
    return best;
}

// The first label of the sender that is best for a label of the receiver.
template <class V, class T>
DEVICE inline V best_sender(const V* reach, const V* score, int step, int labels) {
    V m = reach[0] + score[0], best = V{};
    for (int s = 1; s < labels; ++s) {
        const V value = reach[s] + score[Index(s) * step];
        best = value > m ? V{} + T(s) : best;
        m = larger_of(m, value);
    }
    return best;
}

// The derivative of `walk`: from `given`, the derivative by the marginals of each cell, walks back and
// writes `carried`, the derivative by the message that arrives at each cell. In direction 0 that of
// the chain's maximum, `weights` of its line, starts at the chain's end. Returns this thread's part of the
// derivative by gamma: every soft maximum contributes its entropy.
template <class V, class T>
DEVICE inline V walk_back(const Problem& p, const Chain& c, int direction, T gamma, const V* weights, const V* theta,
                          const V* left, const V* right, const V* message, const V* given, V* carried,
                          V* scratch) {
    const int K = p.labels, width = K + 2, stride = row_length(K);
    const int sender = direction ? 1 : stride, receiver = direction ? stride : 1;
    const bool soft = gamma > 0;
    const T scale = soft ? 1 / gamma : T(1);
    V* edge = scratch;
    V* reach = edge + Index(K) * stride;
    V* norm = reach + K;     // the raw message at the receiver, or its best sender
    V* arrived = norm + K;   // the derivative by it
    const V weight = weights[(c.axis ? p.lines[0] : 0) + c.line];
    V entropy = V{};
    Index to = cell_of(c, direction, c.count - 1);
    FOR_LANES(t, K) reach[t] = theta[to * K + t] + message[to * width + t];
    BARRIER;
    const V top = maximum(reach, K);
    V sum = V{};
    if (soft)
        for (int s = 0; s < K; ++s) sum += exponential(reach[s] - top);
    const V level = soft ? top + logarithm(sum) : best_of<V, T>(reach, K);
    FOR_LANES(t, K) {
        V derivative = given[to * K + t];
        if (direction == 0) {
            const V logp = reach[t] - level;
            const V share = soft ? exponential(logp) : (level == V{} + T(t) ? V{} + T(1) : V{});
            derivative += share * weight;
            if (soft) entropy -= share * logp * weight;
        }
        arrived[t] = derivative;
        carried[to * K + t] = derivative;
    }
    for (int i = c.count - 2; i >= 0; --i) {
        const Index from = cell_of(c, direction, i);
        BARRIER;
        load_edge(left, right, edge_of(c, direction, i), c.gap, K, scale, edge);
        FOR_LANES(t, K) {
            reach[t] = theta[from * K + t] + message[from * width + t];
            if (soft) norm[t] = message[to * width + t] + message[to * width + K];
        }
        BARRIER;
        if (!soft) {
            FOR_LANES(t, K) norm[t] = best_sender<V, T>(reach, edge + t * receiver, sender, K);
            BARRIER;
        }
        V* next = norm + 2 * K;
        FOR_LANES(t, K) {
            const V* score = edge + t * sender;
            V flow = V{};
            if (soft) {
                for (int r = 0; r < K; ++r) {
                    const V logp = reach[t] + score[r * receiver] - norm[r];
                    const V share = arrived[r] * exponential(logp);
                    flow += share;
                    entropy -= share * logp;
                }
            } else {
                for (int r = 0; r < K; ++r) flow += norm[r] == V{} + T(t) ? arrived[r] : V{};
            }
            next[t] = given[from * K + t] + flow;
        }
        BARRIER;
        FOR_LANES(t, K) {
            arrived[t] = next[t];
            carried[from * K + t] = next[t];
        }
        to = from;
    }
    return entropy;
}

// Adds the derivative by the scores of one edge, of all iterations, to `out` (and to `also`, if given).
// `earlier` and `later` are the edge's two cells in theta, `layer` the cells of all gaps. theta is here
// [iterations, layer, K], message and carried are [iterations, 2 directions, layer, K + 2 or K].
template <class V, class T>
DEVICE inline void edge_derivative(const Problem& p, Index earlier, Index later, Index edge, int gap, T gamma,
                                   int iterations, Index layer, const V* theta, const V* left, const V* right,
                                   const V* message, const V* carried, V* out, V* also, V* scratch) {
    const int K = p.labels, width = K + 2, stride = row_length(K);
    const bool soft = gamma > 0;
    const T scale = soft ? 1 / gamma : T(1);
    V* score = scratch;
    V* forward = score + Index(K) * stride;  // of the earlier cell, towards the later one
    V* forward_norm = forward + K;
    V* forward_given = forward_norm + K;
    V* backward = forward_given + K;  // of the later cell, towards the earlier one
    V* backward_norm = backward + K;
    V* backward_given = backward_norm + K;
    load_edge(left, right, edge, gap, K, scale, score);
    for (int n = 0; n < iterations; ++n) {
        const V* unary = theta + n * layer * K;
        const V* ahead = message + 2 * n * layer * width;
        const V* behind = ahead + layer * width;
        const V* carried_ahead = carried + 2 * n * layer * K;
        const V* carried_behind = carried_ahead + layer * K;
        BARRIER;
        FOR_LANES(t, K) {
            forward[t] = unary[earlier * K + t] + ahead[earlier * width + t];
            forward_norm[t] = ahead[later * width + t] + ahead[later * width + K];
            forward_given[t] = carried_ahead[later * K + t];
            backward[t] = unary[later * K + t] + behind[later * width + t];
            backward_norm[t] = behind[earlier * width + t] + behind[earlier * width + K];
            backward_given[t] = carried_behind[earlier * K + t];
        }
        BARRIER;
        if (!soft) {
            FOR_LANES(t, K) {
                forward_norm[t] = best_sender<V, T>(forward, score + t, stride, K);
                backward_norm[t] = best_sender<V, T>(backward, score + t * stride, 1, K);
            }
            BARRIER;
        }
        for (int a = 0; a < K; ++a)
            FOR_LANES(b, K) {
                V derivative;
                if (soft) {
                    const V s = score[a * stride + b];
                    derivative = forward_given[b] * exponential(forward[a] + s - forward_norm[b]) +
                                 backward_given[a] * exponential(backward[b] + s - backward_norm[a]);
                } else {
                    derivative = (forward_norm[b] == V{} + T(a) ? forward_given[b] : V{}) +
                                 (backward_norm[a] == V{} + T(b) ? backward_given[a] : V{});
                }
                if (out) out[a * K + b] += derivative;
                if (also) also[a * K + b] += derivative;
            }
    }
    BARRIER;
}
