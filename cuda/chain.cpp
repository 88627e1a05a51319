// The chains on the CPU: an OpenMP thread takes a vector of neighbouring chains at a time, or the whole way of a few
// images.
#include <algorithm>
#include <cstdlib>
#include <type_traits>
#include <vector>

#include "pack.h"

#define DEVICE
#include "chain.h"

namespace {

// Scratch of one thread, aligned for vectors.
template <class V>
struct Scratch {
    V* memory;
    explicit Scratch(Index size)
        : memory(static_cast<V*>(std::aligned_alloc(64, (size * sizeof(V) + 63) / 64 * 64))) {}
    ~Scratch() { std::free(memory); }
};

// The sums over the real chains of each image, one after the other in double precision: the same for any
// number of threads.
template <class T, class V>
void totals(const Problem& p, bool factored, const V* values, int stride, T* sums) {
    constexpr int W = sizeof(V) / sizeof(T);
    std::vector<double> total(p.images, 0.0);
    for (Index i = 0; i < number_of_chains(p); ++i) {
        const Chain c = chain_at(p, factored, i);
        const int lines = p.valid[c.axis] / p.images;
        for (int lane = 0; lane < W && c.line * W + lane < p.valid[c.axis]; ++lane)
            for (int d = 0; d < stride; ++d) total[(c.line * W + lane) / lines] += values[i * stride + d][lane];
    }
    for (int n = 0; n < p.images; ++n) sums[n] = T(total[n]);
}

// As many chains at a time that those of a line, which share their scores, stay on one processor, unless there
// are too few lines.
int chunk(const Problem& p, int threads) {
    return p.lines[0] + p.lines[1] >= 8 * threads ? larger(chains_of_line(p, 0), chains_of_line(p, 1)) : 1;
}

// The strides [N, rows, lines, places] of the lines along an axis.
struct Strides {
    Index value[4];
    Strides(const Index* plain, int axis) : value{plain[0], plain[1], plain[2 + axis], plain[3 - axis]} {}
};

// Lines of a block in strided [N, rows, lines, places].
template <class T, class V = typename Vector<std::remove_const_t<T>>::type>
struct Lines {
    static constexpr Index W = BYTES / sizeof(T);
    Index valid;
    bool neighbours = true;  // in memory
    T* first[W];

    Lines(T* plain, Index block, Index count, Index lines, const Index* stride)
        : valid(std::min(W, count - block * W)) {
        for (Index lane = 0; lane < valid; ++lane) {
            const Index line = block * W + lane;
            first[lane] = plain + line / lines * stride[0] + line % lines * stride[2];
            neighbours = neighbours && first[lane] == first[0] + lane;
        }
    }

    // A number of each line; missing lines are 0.
    V get(Index offset) const {
        if (neighbours) return load<V>(first[0] + offset, valid);
        V values = V{};
        for (Index lane = 0; lane < valid; ++lane) values[lane] = first[lane][offset];
        return values;
    }

    void put(Index offset, V values) const {
        if (neighbours) return store(first[0] + offset, values, valid);
        for (Index lane = 0; lane < valid; ++lane) first[lane][offset] = values[lane];
    }
};

// The order in which a block is packed: rows or places innermost, whichever are closer in memory, and how far
// apart they are there and in [places, room, lane].
struct Order {
    Index outer, inner;
    Index step, near;
    Index packed_step, packed_near;

    Order(Index rows, Index places, Index room, const Index* stride) {
        const bool by_rows = stride[1] <= stride[3];
        outer = by_rows ? places : rows, inner = by_rows ? rows : places;
        step = stride[by_rows ? 3 : 1], near = stride[by_rows ? 1 : 3];
        packed_step = by_rows ? room : 1, packed_near = by_rows ? 1 : room;
    }
};

// One block of lines from strided [N, rows, lines, places] to [places, room, lane]; missing lines are 0.
template <class T, class V = typename Vector<T>::type>
void pack_block(V* packed, Index room, const Lines<const T>& from, Index rows, Index places, const Index* stride) {
    constexpr Index W = Lines<const T>::W;
    const Order order(rows, places, room, stride);
    const bool squares = order.near == 1 && from.valid == W;
    for (Index o = 0; o < order.outer; ++o, packed += order.packed_step) {
        Index i = 0;
        for (; squares && i + W <= order.inner; i += W) {
            V tile[W];
            for (Index lane = 0; lane < W; ++lane)
                std::memcpy(tile + lane, from.first[lane] + o * order.step + i, sizeof(V));
            transpose(tile);
            for (Index j = 0; j < W; ++j) packed[(i + j) * order.packed_near] = tile[j];
        }
        for (; i < order.inner; ++i) packed[i * order.packed_near] = from.get(o * order.step + i * order.near);
    }
}

// From strided [N, rows, lines, places] to [blocks of lines, places, rows, lane].
template <class T, class V = typename Vector<T>::type>
void pack(V* packed, const T* plain, Index n, Index rows, Index lines, Index places, const Index* stride,
          int threads) {
    constexpr Index W = BYTES / sizeof(T);
    const Index count = n * lines, blocks = (count + W - 1) / W;
#pragma omp parallel for num_threads(threads)
    for (Index block = 0; block < blocks; ++block) {
        const Lines<const T> from(plain, block, count, lines, stride);
        pack_block(packed + block * places * rows, rows, from, rows, places, stride);
    }
}

// The weights of scores as they are packed, to [blocks of lines, places, rows + 1, lane]. Raises `spread` to how
// far, in units of gamma, the scores of one edge or cell lie apart; NaNs may hide.
template <class T, class V = typename Vector<T>::type>
void pack_weights(V* weight, T* spread, const T* plain, const T* gamma, Index n, Index rows, Index lines,
                  Index places, const Index* stride, int threads) {
    constexpr Index W = BYTES / sizeof(T);
    const Index count = n * lines, blocks = (count + W - 1) / W;
    const T scale = 1 / *gamma;
    T widest = *spread;
#pragma omp parallel for num_threads(threads) reduction(max : widest)
    for (Index block = 0; block < blocks; ++block) {
        V* here = weight + block * places * (rows + 1);
        const Lines<const T> from(plain, block, count, lines, stride);
        pack_block(here, rows + 1, from, rows, places, stride);
        V apart = V{};
        for (Index place = 0; place < places; ++place, here += rows + 1) {
            const V lowest = scale * minimum(here, int(rows));
            weigh(int(rows), scale, here, here);
            apart = larger_of(here[rows] - lowest, apart);
        }
        for (int lane = 0; lane < W; ++lane) widest = std::max(widest, apart[lane]);
    }
    *spread = widest;
}

// The way back, replacing what is there or adding to it.
template <class T, class V = typename Vector<T>::type>
void unpack_block(const Lines<T>& to, const V* packed, bool add, Index rows, Index places, const Index* stride) {
    constexpr Index W = Lines<T>::W;
    const Order order(rows, places, rows, stride);
    const bool squares = order.near == 1 && to.valid == W;
    for (Index o = 0; o < order.outer; ++o, packed += order.packed_step) {
        Index i = 0;
        for (; squares && i + W <= order.inner; i += W) {
            V tile[W];
            for (Index j = 0; j < W; ++j) tile[j] = packed[(i + j) * order.packed_near];
            transpose(tile);
            for (Index lane = 0; lane < W; ++lane) {
                T* target = to.first[lane] + o * order.step + i;
                store(target, add ? load<V>(target, W) + tile[lane] : tile[lane], W);
            }
        }
        for (; i < order.inner; ++i) {
            const Index offset = o * order.step + i * order.near;
            const V values = packed[i * order.packed_near];
            to.put(offset, add ? to.get(offset) + values : values);
        }
    }
}

template <class T, class V = typename Vector<T>::type>
void unpack(T* plain, const V* packed, Index n, Index rows, Index lines, Index places, const Index* stride,
            int threads) {
    constexpr Index W = BYTES / sizeof(T);
    const Index count = n * lines, blocks = (count + W - 1) / W;
#pragma omp parallel for num_threads(threads)
    for (Index block = 0; block < blocks; ++block) {
        const Lines<T> to(plain, block, count, lines, stride);
        unpack_block(to, packed + block * places * rows, false, rows, places, stride);
    }
}

// Packs the rows and the columns of [N, R, h, w] to [cells, R, lane].
template <class T, class V = typename Vector<T>::type>
void pack_cells(const Problem& p, V* packed, const Plain<const T>& plain, Index rows, int threads) {
    for (int axis = 0; axis < 2; ++axis) {
        const Strides stride(plain.stride, axis);
        pack(packed, plain.first, p.images, rows, p.length[1 - axis], p.length[axis], stride.value, threads);
        packed += Index(p.lines[axis]) * p.length[axis] * rows;
    }
}

// How many packed edges there are, or, if scores are factored, cells.
Index places_of_scores(const Problem& p, bool factored) { return factored ? cells(p) : first_edge(p, 1, p.gaps); }

// Packs pairwise scores and, if `weigh`, their weights into the room that `scores` gives, which is set to null where
// nothing was needed: scores themselves are, if they must be `exact` or weights might not do. `plain`: as `out` of
// scores_backward.
template <class T, class V = typename Vector<T>::type>
void pack_scores(const Problem& p, const T* gamma, const Plain<const T>* plain, bool factored, bool weigh, bool exact,
                 Scores<V>& scores, int threads) {
    const Index size = Index(p.labels) * p.labels;
    const auto visit = [&](int side, auto visit_part) {
        Index place = 0;
        for (int axis = 0; axis < 2; ++axis)
            for (int g = 0; g < (factored ? 1 : p.gaps); ++g) {
                const Plain<const T>& from = plain[factored ? side : axis * p.gaps + g];
                const Index places = factored ? p.length[axis] : larger(0, p.length[axis] - p.gap[g]);
                if (places) visit_part(place, from.first, p.length[1 - axis], places, Strides(from.stride, axis).value);
                place += p.lines[axis] * places;
            }
    };
    V* const packed[] = {const_cast<V*>(scores.left), const_cast<V*>(scores.right)};
    V* const weights[] = {const_cast<V*>(scores.left_weight), const_cast<V*>(scores.right_weight)};
    weigh = weigh && *gamma > 0;
    T spread[] = {0, 0};
    for (int side = 0; weigh && side < 1 + factored; ++side)
        visit(side, [&](Index place, const T* from, Index lines, Index places, const Index* stride) {
            pack_weights(weights[side] + place * (size + 1), spread + side, from, gamma, p.images, size, lines, places,
                         stride, threads);
        });
    exact = exact || !weigh || !(spread[0] + spread[1] <= Range<T>::spread);
    for (int side = 0; exact && side < 1 + factored; ++side)
        visit(side, [&](Index place, const T* from, Index lines, Index places, const Index* stride) {
            pack(packed[side] + place * size, from, p.images, size, lines, places, stride, threads);
        });
    scores = {exact ? packed[0] : nullptr, exact && factored ? packed[1] : nullptr, weigh ? weights[0] : nullptr,
              weigh && factored ? weights[1] : nullptr};
}

// Calls step(cell of a gap's chains, label, sum over the cell's chains) for all. The sums are a plain array
// [N, K, h, w], which is `given`, or else written with what the steps have added up.
template <class T, class V, class Step>
void at_every_cell(const Problem& p, T* plain, bool given, int threads, Step step) {
    constexpr int W = sizeof(V) / sizeof(T);
    const Index K = p.labels, area = Index(p.length[0]) * p.length[1];
#pragma omp parallel num_threads(threads)
    for (int axis = 0; axis < 2; ++axis) {
        const int lines = p.length[1 - axis], length = p.length[axis];
        const Index first = axis ? Index(p.lines[0]) * p.length[0] : 0;
        const Index along = axis ? p.length[0] : 1, across = axis ? 1 : p.length[0];
#pragma omp for
        for (Index block = 0; block < p.lines[axis]; ++block) {
            T* line[W];
            const int valid = smaller(W, p.valid[axis] - int(block) * W);
            for (int lane = 0; lane < valid; ++lane) {
                const Index number = block * W + lane;
                line[lane] = plain + number / lines * K * area + number % lines * across;
            }
            for (int place = 0; place < length; ++place)
                for (Index k = 0; k < K; ++k) {
                    const Index at = place * along + k * area;
                    V sum = V{};
                    if (given || axis)
                        for (int lane = 0; lane < valid; ++lane) sum[lane] = line[lane][at];
                    for (int g = 0; g < p.gaps; ++g)
                        step(g * cells(p) + first + block * length + place, int(k), sum);
                    if (!given)
                        for (int lane = 0; lane < valid; ++lane) line[lane][at] = sum[lane];
                }
        }
    }
}

template <class T, class V = typename Vector<T>::type>
void marginals(const Problem& p, const V* theta, const V* message, V* out, T* total, int threads) {
    at_every_cell<T, V>(p, total, false, threads, [=, &p](Index cell, int k, V& sum) {
        const V value = marginal(p, cell, k, theta, message);
        out[cell * p.labels + k] = value;
        sum += value;
    });
}

// Adds to `following` the derivative by theta, carried[0] + carried[1] - given.
template <class T, class V = typename Vector<T>::type>
void collect(const Problem& p, const V* carried, const V* given, V* following, T* total, int threads) {
    const Index K = p.labels, layer = p.gaps * cells(p) * K;
    at_every_cell<T, V>(p, total, false, threads, [=](Index cell, int k, V& sum) {
        const Index i = cell * K + k;
        following[i] += carried[i] + carried[layer + i] - given[i];
        sum += following[i];
    });
}

// out = base - step * (values - the mean over a cell's chains); base may be null.
template <class T, class V = typename Vector<T>::type>
void agree(const Problem& p, T* total, T step, const V* base, const V* values, V* out, int threads) {
    const Index K = p.labels;
    const T share = T(1) / (2 * p.gaps);
    at_every_cell<T, V>(p, total, true, threads, [=](Index cell, int k, V& sum) {
        const Index i = cell * K + k;
        const V moved = step * (values[i] - share * sum);
        out[i] = base ? base[i] - moved : -moved;
    });
}

template <class T, class V = typename Vector<T>::type>
void messages(const Problem& p, const T* gamma, const V* theta, const Scores<V>& scores, V* message, T* dual,
              int threads) {
    const bool factored = scores.factored();
    const Index chains = number_of_chains(p), layer = p.gaps * cells(p);
    const int size = chunk(p, threads);
    Scratch<V> maxima(chains);
#pragma omp parallel num_threads(threads)
    {
        Scratch<V> scratch(scratch_size(p.labels));
#pragma omp for schedule(dynamic, size)
        for (Index i = 0; i < chains; ++i) {
            const Chain c = chain_at(p, factored, i);
            for (int d = 0; d < 2; ++d)
                walk(p, c, d, *gamma, theta, scores, message + d * layer * (p.labels + EXTRAS), maxima.memory + i,
                     scratch.memory);
        }
    }
    totals(p, factored, maxima.memory, 1, dual);
}

template <class T, class V = typename Vector<T>::type>
void messages_backward(const Problem& p, const T* gamma, bool by_gamma, const V* weights, const V* theta,
                       const Scores<V>& scores, const V* message, const V* given, V* carried, T* entropy,
                       int threads) {
    const bool factored = scores.factored();
    const Index chains = number_of_chains(p), layer = p.gaps * cells(p);
    const int size = chunk(p, threads);
    Scratch<V> entropies(2 * chains);
#pragma omp parallel num_threads(threads)
    {
        Scratch<V> scratch(scratch_size(p.labels));
#pragma omp for schedule(dynamic, size)
        for (Index i = 0; i < chains; ++i) {
            const Chain c = chain_at(p, factored, i);
            for (int d = 0; d < 2; ++d)
                entropies.memory[2 * i + d] = walk_back(
                    p, c, d, *gamma, by_gamma, weights, theta, scores, message + d * layer * (p.labels + EXTRAS),
                    given, carried + d * layer * p.labels, scratch.memory);
        }
    }
    totals(p, factored, entropies.memory, 2, entropy);
}

// A thread takes all edges of a block of lines; columns add to what the rows have written. `out`: if scores are
// factored, of the left and the right ends; else of the horizontal edges of each gap, then of the vertical ones.
template <class T, class V = typename Vector<T>::type>
void scores_backward(const Problem& p, const T* gamma, int iterations, const V* theta, const Scores<V>& scores,
                     const V* message, const V* carried, const Plain<T>* out, int threads) {
    const Index layer = p.gaps * cells(p), size = Index(p.labels) * p.labels;
    const bool factored = scores.factored();
#pragma omp parallel num_threads(threads)
    {
        Scratch<V> scratch(scratch_size(p.labels));
        Scratch<V> derivatives((factored ? 2 : 1) * larger(p.length[0], p.length[1]) * size);
        for (int axis = 0; axis < 2; ++axis) {
            const int length = p.length[axis], lines = p.length[1 - axis];
            V* left = derivatives.memory;
            V* right = left + length * size;
            const auto write = [&](const Plain<T>& target, Index block, const V* values, bool add, Index places) {
                const Strides stride(target.stride, axis);
                const Lines<T> to(target.first, block, p.valid[axis], lines, stride.value);
                unpack_block(to, values, add, size, places, stride.value);
            };
#pragma omp for schedule(dynamic)
            for (Index block = 0; block < p.lines[axis]; ++block) {
                const Index place = (axis ? Index(p.lines[0]) * p.length[0] : 0) + block * length;
                if (factored) std::fill_n(left, 2 * length * size, V{});
                for (int g = 0; g < p.gaps; ++g) {
                    const int gap = p.gap[g], edges = larger(0, length - gap);
                    if (!factored) std::fill_n(left, edges * size, V{});
                    for (int i = 0; i < edges; ++i) {
                        const Index cell = g * cells(p) + place + i;
                        const Index edge = factored ? place + i : first_edge(p, axis, g) + block * edges + i;
                        edge_derivative(p, cell, cell + gap, edge, gap, *gamma, iterations, layer, theta, scores,
                                        message, carried, left + i * size,
                                        factored ? right + (i + gap) * size : nullptr, scratch.memory);
                    }
                    if (!factored && edges) write(out[axis * p.gaps + g], block, left, false, edges);
                }
                if (factored) {
                    write(out[0], block, left, axis, length);
                    write(out[1], block, right, axis, length);
                }
            }
        }
    }
}

// A batch in groups of images, of `group.images` each. The processors take whole groups, one after the other, from
// the first iteration to the last, so that all but what is kept stays in a cache; if there are too few, they work
// on each group together.
template <class T>
struct Batch {
    const Problem& group;
    Index images;
    int threads;

    Index groups() const { return (images + group.images - 1) / group.images; }

    // The last group may be smaller.
    Problem problem(Index index) const {
        constexpr int W = BYTES / sizeof(T);
        Problem p = group;
        p.images = int(std::min(Index(group.images), images - index * group.images));
        for (int axis = 0; axis < 2; ++axis) {
            p.valid[axis] = p.images * p.length[1 - axis];
            p.lines[axis] = (p.valid[axis] + W - 1) / W;
        }
        return p;
    }

    // Calls compute(problem, number of the group's first image, its place among the groups, scratch, threads).
    template <class V, class Compute>
    void each(Index scratch_size, Compute compute) const {
        const auto part = [&](Index index, V* scratch, int workers) {
            compute(problem(index), index * group.images, index, scratch, workers);
        };
        if (groups() < threads) {
            Scratch<V> scratch(scratch_size);
            for (Index index = 0; index < groups(); ++index) part(index, scratch.memory, threads);
            return;
        }
#pragma omp parallel num_threads(threads)
        {
            Scratch<V> scratch(scratch_size);
#pragma omp for schedule(dynamic)
            for (Index index = 0; index < groups(); ++index) part(index, scratch.memory, 1);
        }
    }
};

// Room for pack_scores, and where it ends.
template <class V>
Scores<V> room_for_scores(const Problem& p, bool factored, V*& scratch) {
    const Index size = Index(p.labels) * p.labels, places = places_of_scores(p, factored);
    Scores<V> scores{nullptr, nullptr, nullptr, nullptr};
    const auto take = [&](Index count) {
        V* first = scratch;
        scratch += places * count;
        return first;
    };
    scores.left_weight = take(size + 1);
    if (factored) scores.right_weight = take(size + 1);
    scores.left = take(size);
    if (factored) scores.right = take(size);
    return scores;
}

Index room_for_scores(const Problem& p, bool factored) {
    return (1 + factored) * places_of_scores(p, factored) * (2 * Index(p.labels) * p.labels + 1);
}

// All iterations of the published update: theta [groups, slots, gaps, cells, K] and message [groups, slots,
// 2, gaps, cells, K + 3], with a slot for every iteration if they are kept, else one; logits [N, K, h, w], and
// the dual [iterations, N] in units of gamma.
template <class T, class V = typename Vector<T>::type>
void decompose(const Batch<T>& batch, const T* gamma, const Plain<const T>& unary, const Plain<const T>* scores,
               int count, bool factored, int iterations, bool keep, V* theta, V* message, T* logits, T* dual) {
    const Problem& full = batch.group;
    const Index K = full.labels, layer = full.gaps * cells(full), area = Index(full.length[0]) * full.length[1];
    const Index slots = keep ? iterations : 1, width = K + EXTRAS;
    const T unit = *gamma > 0 ? *gamma : T(1), step = T(1) / larger(full.length[0], full.length[1]);
    batch.template each<V>(
        room_for_scores(full, factored) + layer * K,
        [&](const Problem& p, Index image, Index index, V* scratch, int threads) {
            Scores<V> packed = room_for_scores(p, factored, scratch);
            std::vector<Plain<const T>> here;
            for (int i = 0; i < count; ++i) here.push_back(scores[i].from(image));
            pack_scores(p, gamma, here.data(), factored, true, false, packed, threads);
            V *now = theta + index * slots * layer * K, *sent = message + index * slots * 2 * layer * width;
            const Index own = cells(p) * K, all = p.gaps * own;
            pack_cells(p, now, unary.from(image), K, threads);
            const V share = V{} + unit * (2 * p.gaps);
            for (Index i = 0; i < own; ++i) now[i] /= share;
            for (int g = 1; g < p.gaps; ++g) std::copy_n(now, own, now + g * own);
            T* total = logits + image * K * area;
            for (int n = 0; n < iterations; ++n) {
                messages(p, gamma, now, packed, sent, dual + n * batch.images + image, threads);
                marginals(p, now, sent, scratch, total, threads);
                if (n + 1 == iterations) break;
                V* next = keep ? now + all : now;
                agree(p, total, step, now, scratch, next, threads);
                now = next;
                if (keep) sent += 2 * p.gaps * cells(p) * width;
            }
            for (Index i = 0; i < p.images * K * area; ++i) total[i] *= unit;
        });
}

// The way back: from the derivative by the logits, and by the dual [iterations], those by the unary scores
// [N, K, h, w], by the pairwise scores, and if wanted by gamma, of each image.
template <class T, class V = typename Vector<T>::type>
void decompose_backward(const Batch<T>& batch, const T* gamma, bool by_gamma, const Plain<const T>& logits,
                        const T* dual, const Plain<const T>* scores, int count, bool factored, int iterations,
                        const V* theta, const V* message, T* unary_out, const Plain<T>* scores_out, T* entropy) {
    const Problem& full = batch.group;
    const Index K = full.labels, layer = full.gaps * cells(full), area = Index(full.length[0]) * full.length[1];
    const Index width = K + EXTRAS, lines = full.lines[0] + full.lines[1];
    const T step = T(1) / larger(full.length[0], full.length[1]);
    batch.template each<V>(
        room_for_scores(full, factored) + (2 + 2 * iterations) * layer * K + lines,
        [&](const Problem& p, Index image, Index index, V* scratch, int threads) {
            Scores<V> packed = room_for_scores(p, factored, scratch);
            std::vector<Plain<const T>> here;
            std::vector<Plain<T>> out;
            for (int i = 0; i < count; ++i) here.push_back(scores[i].from(image));
            for (int i = 0; i < count; ++i) out.push_back(scores_out[i].from(image));
            pack_scores(p, gamma, here.data(), factored, true, by_gamma, packed, threads);
            const Index own = cells(p) * K, all = p.gaps * own, sent_by_all = 2 * p.gaps * cells(p) * width;
            V *given = scratch, *following = given + all, *carried = following + all;
            V* weights = carried + 2 * iterations * all;
            pack_cells(p, given, logits.from(image), K, threads);
            for (int g = 1; g < p.gaps; ++g) std::copy_n(given, own, given + g * own);
            std::fill_n(following, all, V{});
            const V* thetas = theta + index * iterations * layer * K;
            const V* sent = message + index * iterations * 2 * layer * width;
            T* total = unary_out + image * K * area;
            std::vector<T> found(p.images);
            for (int n = iterations - 1; n >= 0; --n) {
                if (n + 1 < iterations) agree<T, V>(p, total, step, nullptr, following, given, threads);
                std::fill_n(weights, p.lines[0] + p.lines[1], V{} + dual[n]);
                messages_backward(p, gamma, by_gamma, weights, thetas + n * all, packed, sent + n * sent_by_all, given,
                                  carried + 2 * n * all, found.data(), threads);
                collect(p, carried + 2 * n * all, given, following, total, threads);
                for (int i = 0; i < p.images; ++i) entropy[image + i] += found[i];
            }
            for (Index i = 0; i < p.images * K * area; ++i) total[i] /= 2 * p.gaps;
            scores_backward(p, gamma, iterations, thetas, packed, sent, carried, out.data(), threads);
        });
}

}  // namespace

#define EXPORT(T, NAME)                                                                                          \
    typedef Vector<T>::type V_##NAME;                                                                            \
    extern "C" int lanes_##NAME() { return BYTES / sizeof(T); }                                                  \
    extern "C" void pack_##NAME(V_##NAME* packed, const T* plain, Index n, Index rows, Index lines,              \
                                Index places, const Index* stride, int threads) {                                \
        pack<T>(packed, plain, n, rows, lines, places, stride, threads);                                         \
    }                                                                                                            \
    extern "C" void unpack_##NAME(T* plain, const V_##NAME* packed, Index n, Index rows, Index lines,            \
                                  Index places, const Index* stride, int threads) {                              \
        unpack<T>(plain, packed, n, rows, lines, places, stride, threads);                                       \
    }                                                                                                            \
    extern "C" void pack_scores_##NAME(const Problem* p, const T* gamma, const Plain<const T>* plain, int factored, \
                                       int weigh, int exact, Scores<V_##NAME>* scores, int threads) {            \
        pack_scores<T>(*p, gamma, plain, factored, weigh, exact, *scores, threads);                              \
    }                                                                                                            \
    extern "C" void marginals_##NAME(const Problem* p, const V_##NAME* theta, const V_##NAME* message,           \
                                     V_##NAME* out, T* total, int threads) {                                     \
        marginals<T>(*p, theta, message, out, total, threads);                                                   \
    }                                                                                                            \
    extern "C" void collect_##NAME(const Problem* p, const V_##NAME* carried, const V_##NAME* given,             \
                                   V_##NAME* following, T* total, int threads) {                                 \
        collect<T>(*p, carried, given, following, total, threads);                                               \
    }                                                                                                            \
    extern "C" void agree_##NAME(const Problem* p, T* total, double step, const V_##NAME* base,                  \
                                 const V_##NAME* values, V_##NAME* out, int threads) {                           \
        agree<T>(*p, total, T(step), base, values, out, threads);                                                \
    }                                                                                                            \
    extern "C" void messages_##NAME(const Problem* p, const T* gamma, const V_##NAME* theta,                     \
                                    const Scores<V_##NAME>* scores, V_##NAME* message, T* dual, int threads) {   \
        messages<T>(*p, gamma, theta, *scores, message, dual, threads);                                          \
    }                                                                                                            \
    extern "C" void messages_backward_##NAME(                                                                    \
        const Problem* p, const T* gamma, int by_gamma, const V_##NAME* weights, const V_##NAME* theta,          \
        const Scores<V_##NAME>* scores, const V_##NAME* message, const V_##NAME* given, V_##NAME* carried,       \
        T* entropy, int threads) {                                                                               \
        messages_backward<T>(*p, gamma, by_gamma, weights, theta, *scores, message, given, carried, entropy,     \
                             threads);                                                                           \
    }                                                                                                            \
    extern "C" void scores_backward_##NAME(const Problem* p, const T* gamma, int iterations,                     \
                                           const V_##NAME* theta, const Scores<V_##NAME>* scores,                \
                                           const V_##NAME* message, const V_##NAME* carried,                     \
                                           const Plain<T>* out, int threads) {                                  \
        scores_backward<T>(*p, gamma, iterations, theta, *scores, message, carried, out, threads);               \
    }                                                                                                            \
    extern "C" void decompose_##NAME(const Problem* group, Index images, const T* gamma,                         \
                                     const Plain<const T>* unary, const Plain<const T>* scores, int count,       \
                                     int factored, int iterations, int keep, V_##NAME* theta, V_##NAME* message, \
                                     T* logits, T* dual, int threads) {                                          \
        decompose<T>({*group, images, threads}, gamma, *unary, scores, count, factored, iterations, keep, theta, \
                     message, logits, dual);                                                                     \
    }                                                                                                            \
    extern "C" void decompose_backward_##NAME(                                                                   \
        const Problem* group, Index images, const T* gamma, int by_gamma, const Plain<const T>* logits,          \
        const T* dual, const Plain<const T>* scores, int count, int factored, int iterations,                    \
        const V_##NAME* theta, const V_##NAME* message, T* unary_out, const Plain<T>* scores_out, T* entropy,    \
        int threads) {                                                                                           \
        decompose_backward<T>({*group, images, threads}, gamma, by_gamma, *logits, dual, scores, count,          \
                              factored, iterations, theta, message, unary_out, scores_out, entropy);             \
    }

EXPORT(float, float32)
EXPORT(double, float64)
