// The chains on the CPU: an OpenMP thread takes a vector of neighbouring chains at a time.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "pack.h"

#define DEVICE
#define LANE 0
#define LANES 1
#define BARRIER
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

// From strided [N, rows, lines, places] to [blocks of lines, places, rows, lane]; missing lines are 0.
template <class T>
void pack(T* packed, const T* plain, Index n, Index rows, Index lines, Index places, const Index* stride,
          int threads) {
    constexpr Index W = BYTES / sizeof(T);
    const Index count = n * lines, blocks = (count + W - 1) / W;
#pragma omp parallel for collapse(2) num_threads(threads)
    for (Index block = 0; block < blocks; ++block)
        for (Index r = 0; r < rows; ++r) {
            const T* from[W];
            const Index valid = count - block * W < W ? count - block * W : W;
            for (Index lane = 0; lane < valid; ++lane) {
                const Index line = block * W + lane;
                from[lane] = plain + line / lines * stride[0] + r * stride[1] + line % lines * stride[2];
            }
            T* to = packed + (block * places * rows + r) * W;
            for (Index place = 0; place < places; ++place, to += rows * W) {
                for (Index lane = 0; lane < valid; ++lane) to[lane] = from[lane][place * stride[3]];
                for (Index lane = valid; lane < W; ++lane) to[lane] = 0;
            }
        }
}

// The way back, replacing what is there or adding to it.
template <class T>
void unpack(T* plain, const T* packed, bool add, Index n, Index rows, Index lines, Index places,
            const Index* stride, int threads) {
    constexpr Index W = BYTES / sizeof(T);
    const Index count = n * lines, blocks = (count + W - 1) / W;
#pragma omp parallel for collapse(2) num_threads(threads)
    for (Index block = 0; block < blocks; ++block)
        for (Index r = 0; r < rows; ++r) {
            T* to[W];
            const Index valid = count - block * W < W ? count - block * W : W;
            for (Index lane = 0; lane < valid; ++lane) {
                const Index line = block * W + lane;
                to[lane] = plain + line / lines * stride[0] + r * stride[1] + line % lines * stride[2];
            }
            const T* from = packed + (block * places * rows + r) * W;
            for (Index place = 0; place < places; ++place, from += rows * W)
                for (Index lane = 0; lane < valid; ++lane) {
                    T& target = to[lane][place * stride[3]];
                    target = add ? target + from[lane] : from[lane];
                }
        }
}

template <class T, class V = typename Vector<T>::type>
void weigh_all(int labels, const T* gamma, Index count, const V* score, V* weight, int threads) {
    const Index size = Index(labels) * labels;
    const T scale = *gamma > 0 ? 1 / *gamma : T(1);
#pragma omp parallel for num_threads(threads)
    for (Index i = 0; i < count; ++i) {
        V scratch[1];
        weigh(labels, scale, score + i * size, weight + i * (size + 1), scratch);
    }
}

template <class T, class V = typename Vector<T>::type>
void messages(const Problem& p, const T* gamma, const V* theta, const Scores<V>& scores, V* message, T* dual,
              int threads) {
    const bool factored = scores.right;
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
    const bool factored = scores.right;
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

// A thread takes all edges of a line, so that no two threads add to the same scores.
template <class T, class V = typename Vector<T>::type>
void scores_backward(const Problem& p, const T* gamma, int iterations, const V* theta, const Scores<V>& scores,
                     const V* message, const V* carried, V* left_out, V* right_out, int threads) {
    const Index layer = p.gaps * cells(p), size = Index(p.labels) * p.labels;
#pragma omp parallel num_threads(threads)
    {
        Scratch<V> scratch(scratch_size(p.labels));
#pragma omp for schedule(dynamic)
        for (Index task = 0; task < p.lines[0] + p.lines[1]; ++task) {
            const int axis = task >= p.lines[0];
            const int length = p.length[axis];
            const Index line = axis ? task - p.lines[0] : task;
            const Index place = (axis ? Index(p.lines[0]) * p.length[0] : 0) + line * length;
            if (scores.right) {
                std::fill_n(left_out + place * size, length * size, V{});
                std::fill_n(right_out + place * size, length * size, V{});
            }
            for (int g = 0; g < p.gaps; ++g)
                for (int i = 0; i + p.gap[g] < length; ++i) {
                    const int gap = p.gap[g];
                    const Index cell = g * cells(p) + place + i;
                    const Index edge =
                        scores.right ? place + i : first_edge(p, axis, g) + line * (length - gap) + i;
                    if (!scores.right) std::fill_n(left_out + edge * size, size, V{});
                    edge_derivative(p, cell, cell + gap, edge, gap, *gamma, iterations, layer, theta, scores,
                                    message, carried, left_out + edge * size,
                                    scores.right ? right_out + (edge + gap) * size : nullptr, scratch.memory);
                }
        }
    }
}

}  // namespace

#define EXPORT(T, NAME)                                                                                          \
    typedef Vector<T>::type V_##NAME;                                                                            \
    extern "C" int lanes_##NAME() { return BYTES / sizeof(T); }                                                  \
    extern "C" void pack_##NAME(T* packed, const T* plain, Index n, Index rows, Index lines, Index places,       \
                                const Index* stride, int threads) {                                              \
        pack<T>(packed, plain, n, rows, lines, places, stride, threads);                                         \
    }                                                                                                            \
    extern "C" void unpack_##NAME(T* plain, const T* packed, int add, Index n, Index rows, Index lines,          \
                                  Index places, const Index* stride, int threads) {                              \
        unpack<T>(plain, packed, add, n, rows, lines, places, stride, threads);                                  \
    }                                                                                                            \
    extern "C" void weigh_##NAME(int labels, const T* gamma, Index count, const V_##NAME* score,                 \
                                 V_##NAME* weight, int threads) {                                                \
        weigh_all<T>(labels, gamma, count, score, weight, threads);                                              \
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
                                           const V_##NAME* message, const V_##NAME* carried, V_##NAME* left_out, \
                                           V_##NAME* right_out, int threads) {                                   \
        scores_backward<T>(*p, gamma, iterations, theta, *scores, message, carried, left_out, right_out,         \
                           threads);                                                                             \
    }

EXPORT(float, float32)
EXPORT(double, float64)
