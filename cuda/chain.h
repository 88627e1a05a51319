// Soft max-marginals of many chains on the CPU: the routines of one vector of neighbouring chains.
//
// The includer defines, before including this file, exponential(x) and logarithm(x) for V; exponential of a very negative
// number is 0, never NaN; and any_less(a, b) for V: whether a < b for one of its numbers.
//
// V is a short vector of a number of each of neighbouring chains; T is a number. All scores are in units of gamma in
// here, so that gamma is 1 in every formula: s = scale * score.
//
// A soft maximum over the labels of one end of an edge, for each label of the other, needs K * K
// exponentials of (what has been gathered + s). These are products of K numbers and of the edge's weights,
// exp(s - level), which are the same in every iteration and direction, and of factored scores products
// themselves. Where a product would leave the range of T, the exponentials are taken one by one.
//
// Words and arrays (methods/ddcrf.py has the formulas):
//   cell      one place of one line of the grid, in the packed order that Python made
//   theta     [gaps, cells, K]      unary scores of the chains of each gap
//   message   [gaps, cells, K + 3]  what arrives at a cell along its chain, from the side of the
//             chain's start (direction 0) or end (direction 1): K numbers z with maximum 0; the
//             maximum that was taken out in this step; all that was taken out up to here; and the largest
//             of theta + z at the sender, or EXACT where weights do not do.
//             Long chains have large scores; without this their differences would lose digits.
//   scores    of edges, or, if there is a `right`, of cells as the earlier ends, to which those of the
//             later ends are added: [edges or cells, K, K], and weights and their level [.., K * K + 1]
#pragma once

#include "grid.h"

// Pairwise scores and their weights, which only soft maxima need. Scores may be null where weights do for
// every edge, and what is `right` is null unless scores are factored.
template <class V>
struct Scores {
    const V* left;
    const V* right;
    const V* left_weight;
    const V* right_weight;

    bool factored() const { return right || right_weight; }
};

// Says of a message that sums of weights did not do.
#define EXACT 1e30

// Finds chain number `index`: axis by axis, line by line, gap by gap. Those of one line share its scores.
inline Chain chain_at(const Problem& p, bool factored, Index index) {
    const Index rows = Index(p.lines[0]) * chains_of_line(p, 0);
    const int axis = index >= rows, length = p.length[axis];
    index -= axis ? rows : 0;
    const Index line = index / chains_of_line(p, axis);
    int start = int(index % chains_of_line(p, axis)), g = 0;
    for (; start >= smaller(p.gap[g], length); ++g) start -= smaller(p.gap[g], length);
    const int gap = p.gap[g];
    const Index place = (axis ? Index(p.lines[0]) * p.length[0] : 0) + line * length + start;
    Chain c;
    c.cell = g * cells(p) + place;
    c.edge = factored ? place : first_edge(p, axis, g) + line * larger(0, length - gap) + start;
    c.count = (length - start + gap - 1) / gap;
    c.gap = gap;
    c.line = int(line);
    c.axis = axis;
    return c;
}

// What the next step along a chain reads is far from what this one did: without a hint it would be waited for.
template <class V>
inline void prefetch(const V* values, int n) {
    for (int i = 0; i < n; ++i) __builtin_prefetch(values + i);
}

template <class V>
inline V larger_of(V a, V b) {
    return a > b ? a : b;
}

template <class V>
inline V maximum(const V* values, int n) {
    V m = values[0];
    for (int i = 1; i < n; ++i) m = larger_of(m, values[i]);
    return m;
}

template <class V>
inline V minimum(const V* values, int n) {
    V m = values[0];
    for (int i = 1; i < n; ++i) m = values[i] < m ? values[i] : m;
    return m;
}

// The weights of the `size` scores of one edge or cell, and behind them their level; they may take the scores'
// place.
template <class V, class T>
inline void weigh(int size, T scale, const V* score, V* weight) {
    const V level = maximum(score, size) * scale;
    for (int i = 0; i < size; ++i) weight[i] = exponential(score[i] * scale - level);
    weight[size] = level;
}

// The level of an edge's weights.
template <class V>
inline V level_of(const Scores<V>& scores, Index edge, int gap, int size) {
    const V first = scores.left_weight[edge * (size + 1) + size];
    return scores.right_weight ? first + scores.right_weight[(edge + gap) * (size + 1) + size] : first;
}

// The weights of an edge, or of factored scores those of its ends, whose products they are: every one is used once.
template <class V>
struct Weights {
    const V* first;
    const V* second;
};

template <class V>
inline Weights<V> weights_of(const Scores<V>& scores, Index edge, int gap, int labels) {
    const Index size = Index(labels) * labels + 1;
    return {scores.left_weight + edge * size,
            scores.right_weight ? scores.right_weight + (edge + gap) * size : nullptr};
}

// The sum of n values times every step-th weight.
template <class V>
inline V weighted_sum(const Weights<V>& weights, int start, int step, const V* values, int n) {
    const V* first = weights.first + start;
    V sum = V{};
    if (weights.second) {
        const V* second = weights.second + start;
        for (int i = 0; i < n; ++i) sum += values[i] * (first[i * step] * second[i * step]);
    } else {
        for (int i = 0; i < n; ++i) sum += values[i] * first[i * step];
    }
    return sum;
}

template <class V, class T>
inline void load_scores(const Scores<V>& scores, Index edge, int gap, int labels, T scale, V* out) {
    const Index size = Index(labels) * labels;
    const V* first = scores.left + edge * size;
    const V* second = scores.right ? scores.right + (edge + gap) * size : nullptr;
    for (int a = 0; a < labels; ++a)
        for (int b = 0; b < labels; ++b) {
            const V score = second ? first[a * labels + b] + second[a * labels + b] : first[a * labels + b];
            out[a * labels + b] = score * scale;
        }
}

// Numbers of V that the routines need as scratch.
inline Index scratch_size(int labels) { return Index(labels) * (labels + 6); }

// For each label of the receiver the maximum over those of the sender of what these have gathered plus
// the edge's score, entry by entry.
template <class V>
inline void reach_on(bool soft, int labels, const V* reach, const V* edge, int sender, int receiver,
                     V* raw) {
    for (int t = 0; t < labels; ++t) {
        const V* score = edge + t * receiver;
        V m = reach[0] + score[0];
        for (int s = 1; s < labels; ++s) m = larger_of(m, reach[s] + score[s * sender]);
        if (soft) {
            V sum = V{};
            for (int s = 0; s < labels; ++s) sum += exponential(reach[s] + score[s * sender] - m);
            m += logarithm(sum);
        }
        raw[t] = m;
    }
}

// Walks a chain once and writes its messages; in direction 0 also its maximum: the value of the dual.
template <class V, class T>
inline void walk(const Problem& p, const Chain& c, int direction, T gamma, const V* theta,
                 const Scores<V>& scores, V* message, V* dual, V* scratch) {
    const int K = p.labels, width = K + EXTRAS;
    const int sender = direction ? 1 : K, receiver = direction ? K : 1;
    const bool soft = gamma > 0;
    const T scale = soft ? 1 / gamma : T(1);
    V* edge = scratch;
    V* reach = edge + Index(K) * K;  // what a label of the sending cell has gathered so far
    V* share = reach + K;                 // the exponential of that
    V* raw = share + K;
    V total = V{};
    Index from = cell_of(c, direction, 0);
    for (int t = 0; t < width; ++t) message[from * width + t] = V{};
    for (int t = 0; t < K; ++t) reach[t] = theta[from * K + t];
    for (int i = 0; i + 1 < c.count; ++i) {
        const Index to = cell_of(c, direction, i + 1), at = edge_of(c, direction, i);
        prefetch(theta + to * K, K);
        V top = V{};
        if (soft) {
            const V level = level_of(scores, at, c.gap, K * K);
            const Weights<V> weights = weights_of(scores, at, c.gap, K);
            top = maximum(reach, K);
            for (int t = 0; t < K; ++t) share[t] = exponential(reach[t] - top);
            for (int t = 0; t < K; ++t)
                raw[t] = top + level + logarithm(weighted_sum(weights, t * receiver, sender, share, K));
            // Without scores, weights must do; only where there are NaNs they might not.
            const V limit = scores.left ? top + level + Range<T>::log_smallest : V{} - T(EXACT);
            const V lowest = minimum(raw, K);
            top = lowest < limit ? V{} + T(EXACT) : top;
            if (any_less(lowest, limit)) {
                load_scores(scores, at, c.gap, K, scale, edge);
                reach_on(soft, K, reach, edge, sender, receiver, raw);
            }
        } else {
            load_scores(scores, at, c.gap, K, scale, edge);
            reach_on(soft, K, reach, edge, sender, receiver, raw);
        }
        const V shift = maximum(raw, K);
        total += shift;
        for (int t = 0; t < K; ++t) {
            const V z = raw[t] - shift;
            message[to * width + t] = z;
            reach[t] = theta[to * K + t] + z;
        }
        message[to * width + K] = shift;
        message[to * width + K + 1] = total;
        message[to * width + K + 2] = top;
        from = to;
    }
    if (direction == 1) return;
    V m = maximum(reach, K);
    if (soft) {
        V sum = V{};
        for (int s = 0; s < K; ++s) sum += exponential(reach[s] - m);
        m += logarithm(sum);
    }
    *dual = total + m;
}

// The first label with the largest value, as a V.
template <class V, class T>
inline V best_of(const V* values, int labels) {
    V m = values[0], best = V{};
    for (int s = 1; s < labels; ++s) {
        best = values[s] > m ? V{} + T(s) : best;
        m = larger_of(m, values[s]);
    }
    return best;
}

// The first label of the sender that is best for a label of the receiver.
template <class V, class T>
inline V best_sender(const V* reach, const V* score, int step, int labels) {
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
// the chain's maximum, `weights` of its line, starts at the chain's end. Returns the chain's part of the
// derivative by gamma, if that is wanted: every soft maximum contributes its entropy.
template <class V, class T>
inline V walk_back(const Problem& p, const Chain& c, int direction, T gamma, bool by_gamma, const V* weights,
                   const V* theta, const Scores<V>& scores, const V* message, const V* given, V* carried,
                   V* scratch) {
    const int K = p.labels, width = K + EXTRAS;
    const int sender = direction ? 1 : K, receiver = direction ? K : 1;
    const bool soft = gamma > 0;
    const T scale = soft ? 1 / gamma : T(1);
    V* edge = scratch;
    V* reach = edge + Index(K) * K;
    V* norm = reach + K;     // the raw message at the receiver, or its best sender
    V* arrived = norm + K;   // the derivative by it
    V* pull = arrived + K;   // the same over what the receiver's weights sum up to
    const V weight = weights[(c.axis ? p.lines[0] : 0) + c.line];
    V entropy = V{};
    Index to = cell_of(c, direction, c.count - 1);
    for (int t = 0; t < K; ++t) reach[t] = theta[to * K + t] + message[to * width + t];
    const V top = maximum(reach, K);
    V sum = V{};
    if (soft)
        for (int s = 0; s < K; ++s) sum += exponential(reach[s] - top);
    const V level = soft ? top + logarithm(sum) : best_of<V, T>(reach, K);
    for (int t = 0; t < K; ++t) {
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
        const Index from = cell_of(c, direction, i), at = edge_of(c, direction, i);
        const V* arriving = message + to * width;
        const V highest = arriving[K + 2];  // of `reach`
        const bool by_weights = soft && !by_gamma && !any_less(V{} + T(EXACT / 2), highest);
        Weights<V> weights = {nullptr, nullptr};
        if (i > 0) {
            const Index next = cell_of(c, direction, i - 1);
            prefetch(theta + next * K, K);
            prefetch(message + next * width, width);
            prefetch(given + next * K, K);
        }
        if (by_weights) {
            const V base = level_of(scores, at, c.gap, K * K) + highest;
            weights = weights_of(scores, at, c.gap, K);
            for (int t = 0; t < K; ++t) pull[t] = arrived[t] * exponential(base - arriving[t] - arriving[K]);
        } else {
            load_scores(scores, at, c.gap, K, scale, edge);
            for (int t = 0; t < K; ++t) norm[t] = arriving[t] + arriving[K];
        }
        for (int t = 0; t < K; ++t) reach[t] = theta[from * K + t] + message[from * width + t];
        if (!soft) {
            for (int t = 0; t < K; ++t) norm[t] = best_sender<V, T>(reach, edge + t * receiver, sender, K);
        }
        for (int t = 0; t < K; ++t) {
            const V* score = edge + t * sender;
            V flow = V{};
            if (by_weights) {
                flow = weighted_sum(weights, t * sender, receiver, pull, K) * exponential(reach[t] - highest);
            } else if (soft) {
                for (int r = 0; r < K; ++r) {
                    const V logp = reach[t] + score[r * receiver] - norm[r];
                    const V share = arrived[r] * exponential(logp);
                    flow += share;
                    entropy -= share * logp;
                }
            } else {
                for (int r = 0; r < K; ++r) flow += norm[r] == V{} + T(t) ? arrived[r] : V{};
            }
            reach[t] = given[from * K + t] + flow;
        }
        for (int t = 0; t < K; ++t) {
            arrived[t] = reach[t];
            carried[from * K + t] = reach[t];
        }
        to = from;
    }
    return entropy;
}

// The max-marginal of a label at a cell of one gap's chains, in units of gamma.
template <class V>
inline V marginal(const Problem& p, Index cell, int label, const V* theta, const V* message) {
    const int K = p.labels, width = K + EXTRAS;
    const V* ahead = message + cell * width;
    const V* behind = ahead + p.gaps * cells(p) * width;
    return theta[cell * K + label] + (ahead[label] + behind[label]) + (ahead[K + 1] + behind[K + 1]);
}

// Adds the derivative by the scores of one edge, of all iterations, to `out` (and to `also`, if given).
// `earlier` and `later` are the edge's two cells in theta, `layer` the cells of all gaps. theta is here
// [iterations, layer, K], message and carried are [iterations, 2 directions, layer, K + 3 or K].
template <class V, class T>
inline void edge_derivative(const Problem& p, Index earlier, Index later, Index at, int gap, T gamma,
                            int iterations, Index layer, const V* theta, const Scores<V>& scores,
                            const V* message, const V* carried, V* out, V* also, V* scratch) {
    const int K = p.labels, width = K + EXTRAS;
    const bool soft = gamma > 0;
    const T scale = soft ? 1 / gamma : T(1);
    V* edge = scratch;                      // scores; or the derivative over the weights, if these do
    V* forward = edge + Index(K) * K;  // of the earlier cell, towards the later one
    V* forward_norm = forward + K;
    V* forward_given = forward_norm + K;
    V* backward = forward_given + K;  // of the later cell, towards the earlier one
    V* backward_norm = backward + K;
    V* backward_given = backward_norm + K;
    bool by_weights = soft;
    for (int n = 0; n < iterations && by_weights; ++n)
        for (int d = 0; d < 2; ++d) {
            const Index cell = (2 * n + d) * layer + (d ? earlier : later);
            by_weights = by_weights && !any_less(V{} + T(EXACT / 2), message[cell * width + K + 2]);
        }
    V level = V{};
    if (by_weights) {
        level = level_of(scores, at, gap, K * K);
        for (int i = 0; i < K * K; ++i) edge[i] = V{};
    } else {
        load_scores(scores, at, gap, K, scale, edge);
    }
    for (int n = 0; n < iterations; ++n) {
        const V* unary = theta + n * layer * K;
        const V* ahead = message + 2 * n * layer * width;
        const V* behind = ahead + layer * width;
        const V* carried_ahead = carried + 2 * n * layer * K;
        const V* carried_behind = carried_ahead + layer * K;
        const V* to_later = ahead + later * width;
        const V* to_earlier = behind + earlier * width;
        const Index next = later + 1;  // of the following edge
        prefetch(unary + next * K, K);
        prefetch(ahead + next * width, width);
        prefetch(behind + next * width, width);
        prefetch(carried_ahead + next * K, K);
        prefetch(carried_behind + next * K, K);
        for (int t = 0; t < K; ++t) {
            forward[t] = unary[earlier * K + t] + ahead[earlier * width + t];
            forward_norm[t] = to_later[t] + to_later[K];
            forward_given[t] = carried_ahead[later * K + t];
            backward[t] = unary[later * K + t] + behind[later * width + t];
            backward_norm[t] = to_earlier[t] + to_earlier[K];
            backward_given[t] = carried_behind[earlier * K + t];
            if (by_weights) {
                const V top = to_later[K + 2], other = to_earlier[K + 2];
                forward[t] = exponential(forward[t] - top);
                forward_given[t] *= exponential(top + level - forward_norm[t]);
                backward[t] = exponential(backward[t] - other);
                backward_given[t] *= exponential(other + level - backward_norm[t]);
            }
        }
        if (!soft) {
            for (int t = 0; t < K; ++t) {
                forward_norm[t] = best_sender<V, T>(forward, edge + t, K, K);
                backward_norm[t] = best_sender<V, T>(backward, edge + t * K, 1, K);
            }
        }
        for (int a = 0; a < K; ++a)
            for (int b = 0; b < K; ++b) {
                if (by_weights) {
                    edge[a * K + b] += forward[a] * forward_given[b] + backward_given[a] * backward[b];
                    continue;
                }
                V derivative;
                if (soft) {
                    const V s = edge[a * K + b];
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
    if (by_weights) {
        const V* first = scores.left_weight + at * (K * K + 1);
        const V* second = scores.right_weight ? scores.right_weight + (at + gap) * (K * K + 1) : nullptr;
        for (int a = 0; a < K; ++a)
            for (int b = 0; b < K; ++b) {
                const V weight = second ? first[a * K + b] * second[a * K + b] : first[a * K + b];
                const V derivative = weight * edge[a * K + b];
                if (out) out[a * K + b] += derivative;
                if (also) also[a * K + b] += derivative;
            }
    }
}
