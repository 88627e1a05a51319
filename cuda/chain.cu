// The chains on a GPU; cuda/chain.h has the mathematics and the words, common/kernels/gpu_chains.py the order of calls.
//
// A chain has steps that depend on each other, and many bytes of weights that do not. So a group of LANES threads (a
// warp, or half of one for few labels) walks a chain in one direction, a label per lane, and the weights of the edges
// ahead are on their way into a ring in shared memory meanwhile. A step is one maximum over the lanes and one sum over
// the sender's labels per lane. Groups know nothing of each other, and nothing is added up by several threads at once,
// so results are the same bit by bit.
//
// Compiled by NVRTC with
//   SCALAR  float or double
//   LABELS  K; or 0, for tests, where it is in the problem alone (then at most MOST)
//   LANES   32, or 16 for at most 16 labels: then a warp has both directions of one chain
//
// Arrays (one line per block: W is 1)
//   theta    [gaps, cells, K]         unary scores of the chains in units of gamma
//   rows     [edges, row]             of each edge K rows of K | 1 numbers, the scores of a label of the earlier end: as
//            weights exp(score - level), or where scores lie too far apart for that, or gamma is 0 or less, as they are;
//            then the level, their maximum; and 1 if they are weights
//   message  [2, gaps, cells, K + 3]  what arrives at a cell from the chain's start (0) or end: z for each label; the
//            shift that was taken out in this step; all that was taken out up to here; the sender's maximum.
//            shift = that maximum + the edge's level, so z is the logarithm of a sum of weights and needs no maximum.
//   pull     [2, gaps, cells, K]      the derivative by what arrived, over what the weights summed up to; without
//            weights the derivative itself
//   share    [2, gaps, cells, K]      of the sender: the exponential of what it has gathered, less the maximum; of a hard
//            maximum, of the receiver: which label of the sender was best
#define DEVICE __device__
#include "async.h"
#include "grid.h"

#ifndef LABELS
#ifdef EMULATED
#define LABELS 0
#else
#define LABELS 21  // of VOC
#endif
#endif
#ifndef LANES
#define LANES 32
#endif

typedef SCALAR S;

extern __shared__ __align__(16) double shared_memory[];

constexpr unsigned ALL = 0xffffffffu;
constexpr int WARP = 32;
constexpr int MOST = 256;
constexpr int PER = ((LABELS ? LABELS : LANES == 16 ? 16 : MOST) + LANES - 1) / LANES;  // labels of a lane
constexpr int THREADS = 512, FEW = 128;  // at most, of a block
constexpr S NONE = S(-1e30);                                                          // less than any score

#define LANE int(threadIdx.x % LANES)

// For each label t of this lane, the j-th of them.
#define FOR_LABELS(j, t) \
    _Pragma("unroll") for (int j = 0, t = LANE; j < PER; ++j, t += LANES) if (t < K)

DEVICE inline float exponential(float x) { return expf(x); }
DEVICE inline double exponential(double x) { return exp(x); }
DEVICE inline float logarithm(float x) { return logf(x); }
DEVICE inline double logarithm(double x) { return log(x); }

template <class T>
DEVICE inline T larger_of(T a, T b) {
    return a > b ? a : b;
}

DEVICE inline int labels_of(const Problem& p) { return LABELS ? LABELS : p.labels; }

// Numbers in shared memory begin at multiples of four: they are read four at a time.
DEVICE constexpr int padded(int n) { return (n + 3) / 4 * 4; }

// A row of K weights takes an odd number of places, so that neither rows nor columns collide in the banks.
DEVICE constexpr int row_stride(int K) { return K | 1; }
DEVICE constexpr int row_size(int K) { return K * row_stride(K); }
DEVICE constexpr int row_length(int K) { return padded(row_size(K) + 2); }

struct alignas(16) Four {
    S value[4];
};

template <int SIZE>
DEVICE inline S largest_by_shuffles(S value) {
    _Pragma("unroll") for (int distance = SIZE / 2; distance; distance /= 2)
        value = larger_of(value, __shfl_xor_sync(ALL, value, distance));
    return value;
}

#if defined(EMULATED) || __CUDA_ARCH__ >= 800
// Whole numbers have an instruction for that; floating-point numbers are ordered as these are, once negative ones are
// turned round.
DEVICE inline float largest_of_warp(float value) {
    int bits = __float_as_int(value);
    bits = __reduce_max_sync(ALL, bits ^ (bits >> 31 & 0x7fffffff));
    return __int_as_float(bits ^ (bits >> 31 & 0x7fffffff));
}
#else
DEVICE inline float largest_of_warp(float value) { return largest_by_shuffles<WARP>(value); }
#endif
DEVICE inline double largest_of_warp(double value) { return largest_by_shuffles<WARP>(value); }

// The largest number, and the sum, of a group; for all its lanes the same.
DEVICE inline S largest(S value) { return LANES == WARP ? largest_of_warp(value) : largest_by_shuffles<LANES>(value); }
DEVICE inline S sum_of(S value) {
    _Pragma("unroll") for (int distance = LANES / 2; distance; distance /= 2)
        value += __shfl_xor_sync(ALL, value, distance);
    return value;
}

// Finds chain number `index`, the longest first: gap by gap, axis by axis, line by line.
DEVICE inline Chain chain_at(const Problem& p, int index) {
    int g = 0, axis = 0;
    for (;; axis = 1 - axis, g += !axis) {
        const int number = p.lines[axis] * smaller(p.gap[g], p.length[axis]);
        if (index < number) break;
        index -= number;
    }
    const int length = p.length[axis], gap = p.gap[g], chains = smaller(gap, length);
    Chain c;
    c.axis = axis;
    c.line = index / chains;
    const int start = index % chains;
    c.gap = gap;
    c.cell = g * cells(p) + (axis ? Index(p.lines[0]) * p.length[0] : 0) + Index(c.line) * length + start;
    c.edge = first_edge(p, axis, g) + Index(c.line) * larger(0, length - gap) + start;
    c.count = (length - start + gap - 1) / gap;
    return c;
}

// Scores of up to so many gaps and axes are read by one launch.
constexpr int PARTS = 16;
struct Sources {
    Plain<const S> left[PARTS];
    Plain<const S> right[PARTS];  // null unless scores are factored: then that of the edge's other end is added
};
struct Targets {
    Plain<S> out[PARTS];
};

// A run of neighbouring cells of one row of the grid.
struct Tile {
    int image, y, x, count;
};

// Grid: (items * tiles of `size` cells, h, images), where `room` is how much of the row counts.
DEVICE inline Tile tile_of_block(const Problem& p, int size, int item, int tiles, int room) {
    const int x = int(blockIdx.x - item * tiles) * size;
    return {int(blockIdx.z), int(blockIdx.y), x, larger(0, smaller(size, room - x))};
}

// Grid: (parts * tiles of `size` cells, h, images), parts from `first` on, a part being a gap along an axis. Makes rows
// of scores; as weights unless `exact`. Shared memory: size * row_length numbers.
extern "C" __global__ void __launch_bounds__(THREADS)
    weigh(const Problem p, const S* gamma, int exact, int size, int first, const Sources sources, S* rows) {
    const int K = labels_of(p), stride = row_stride(K), length = row_length(K);
    const int tiles = (p.length[0] + size - 1) / size, item = int(blockIdx.x) / tiles, part = first + item;
    const int axis = part / p.gaps, g = part % p.gaps, gap = p.gap[g];
    const Tile tile = tile_of_block(p, size, item, tiles, p.length[0] - (axis ? 0 : gap));
    if (!tile.count || (axis && tile.y + gap >= p.length[1])) return;
    const Plain<const S>&left = sources.left[item], &right = sources.right[item];
    S* scores = reinterpret_cast<S*>(shared_memory);
    const Index from = tile.image * left.stride[0] + tile.y * left.stride[2] + tile.x * left.stride[3];
    const Index other = tile.image * right.stride[0] + tile.y * right.stride[2] + tile.x * right.stride[3];
    const bool by_rows = left.stride[1] <= left.stride[3];
    for (int i = threadIdx.x; i < tile.count * K * K; i += blockDim.x) {
        const int x = by_rows ? i / (K * K) : i % tile.count, r = by_rows ? i % (K * K) : i / tile.count;
        S score = left.first[from + r * left.stride[1] + x * left.stride[3]];
        if (right.first) score += right.first[other + r * right.stride[1] + x * right.stride[3]];
        scores[x * length + r / K * stride + r % K] = score;
    }
    __syncthreads();
    const bool soft = *gamma > 0;
    const S scale = soft ? 1 / *gamma : S(1);
    const int lane = threadIdx.x % WARP;
    for (int x = threadIdx.x / WARP; x < tile.count; x += blockDim.x / WARP) {
        const S* score = scores + x * length;
        S top = NONE, low = NONE;
        for (int r = lane; r < K * K; r += WARP) {
            const S value = score[r / K * stride + r % K] * scale;
            top = larger_of(top, value), low = larger_of(low, -value);
        }
        top = largest_of_warp(top), low = largest_of_warp(low);
        const bool weights = soft && !exact && top + low <= Range<S>::spread;
        const Index line = axis ? Index(tile.image) * p.length[0] + tile.x + x : Index(tile.image) * p.length[1] + tile.y;
        const int place = axis ? tile.y : tile.x + x;
        S* out = rows + (first_edge(p, axis, g) + line * (p.length[axis] - gap) + place) * length;
        for (int i = lane; i < length; i += WARP) {
            S value = i == row_size(K) ? top : i == row_size(K) + 1 ? S(weights) : S(0);
            if (i < row_size(K) && i % stride < K) {
                value = score[i] * scale;
                if (weights) value = exponential(value - top);
            }
            out[i] = value;
        }
    }
}

// Asynchronous copies by the threads of a group, whose number of rounds is known to the compiler; rows begin at
// multiples of 16 bytes.
DEVICE inline void copy_row(S* to, const S* from, int n) {
    constexpr int STEP = 16 / sizeof(S), ROUND = LANES * STEP;
    to += LANE * STEP, from += LANE * STEP;
    _Pragma("unroll 8") for (int i = 0; i < (n + ROUND - 1) / ROUND; ++i)
        if (i * ROUND + LANE * STEP < n) copy_async<16>(to + i * ROUND, from + i * ROUND);
}
DEVICE inline void copy_numbers(S* to, const S* from, int n) {
    to += LANE, from += LANE;
    _Pragma("unroll 8") for (int i = 0; i < (n + LANES - 1) / LANES; ++i)
        if (i * LANES + LANE < n) copy_async<sizeof(S)>(to + i * LANES, from + i * LANES);
}

// Calls fetch(place) for each of `count` steps, one after the other, ahead of use(place), in a ring of `stages` places
// (1, 2 or 4) of `size` numbers each. There is a barrier of the whole warp before each use.
template <class Fetch, class Use>
DEVICE inline void in_ring(int count, int stages, S* ring, int size, Fetch fetch, Use use) {
    const auto start = [&](int i) {
        if (i < count) fetch(ring + (i & (stages - 1)) * size);
        commit_copies();
    };
    for (int i = 0; i < stages - 1; ++i) start(i);
    for (int i = 0; i < count; ++i) {
        if (stages == 1) {
            __syncwarp();
            start(i);
        }
        wait_for_copies(stages == 4 ? 2 : 0);
        __syncwarp();
        if (stages > 1) start(i + stages - 1);
        use(ring + (i & (stages - 1)) * size);
    }
}

// The sum of K values times every step-th weight from `weight` on, in four parts.
DEVICE inline S weighted_sum(int K, const S* values, const S* weight, int step) {
    S sum[4] = {0, 0, 0, 0};
#if LABELS && LABELS <= 64
#pragma unroll
#else
#pragma unroll 2
#endif
    for (int s = 0; s < K; s += 4) {
        const Four four = *reinterpret_cast<const Four*>(values + s);
        _Pragma("unroll") for (int e = 0; e < 4; ++e)
            if (s + e < K) sum[e] += four.value[e] * weight[(s + e) * step];
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// The logarithm of the sum of the exponentials of values plus every step-th score; of a hard maximum the largest.
DEVICE inline S log_sum(int K, const S* values, const S* score, int step, bool soft) {
    S top = values[0] + score[0];
    _Pragma("unroll 1") for (int s = 1; s < K; ++s) top = larger_of(top, values[s] + score[s * step]);
    if (!soft) return top;
    S sum = 0;
    _Pragma("unroll 1") for (int s = 0; s < K; ++s) sum += exponential(values[s] + score[s * step] - top);
    return top + logarithm(sum);
}

// The first s that has the largest value plus score.
DEVICE inline S best_of(int K, const S* values, const S* score, int step) {
    S top = values[0] + score[0];
    int best = 0;
    _Pragma("unroll 1") for (int s = 1; s < K; ++s) {
        const S value = values[s] + score[s * step];
        best = value > top ? s : best;
        top = larger_of(top, value);
    }
    return S(best);
}

// Numbers of shared memory that a group needs: a ring, each of whose places has a row and `numbers` others, and
// `buffers` of a number for each label.
DEVICE constexpr int place_size(int K, int numbers) { return row_length(K) + padded(numbers); }
DEVICE inline S* memory_of_group(int K, int stages, int numbers, int buffers) {
    const int size = stages * place_size(K, numbers) + buffers * padded(K);
    return reinterpret_cast<S*>(shared_memory) + threadIdx.x / LANES * size;
}

// Grid: a group for every chain and direction. maxima: [chains], of which the dual is the sum.
extern "C" __global__ void __launch_bounds__(FEW)
    messages(const Problem p, int stages, const S* gamma, const S* theta, const S* rows, S* message, S* maxima) {
    const int task = int(blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES);
    if (task >= 2 * number_of_chains(p)) return;
    const int K = labels_of(p), width = K + EXTRAS, direction = task % 2;
    const Chain c = chain_at(p, task / 2);
    const bool soft = *gamma > 0;
    message += direction * (p.gaps * cells(p)) * width;
    S* buffer = memory_of_group(K, stages, K, 1);
    const int start = direction ? row_stride(K) : 1, step = direction ? 1 : row_stride(K);  // of the receiver's labels
    S reach[PER], total = 0;  // what a label of the sending cell has gathered
    const Index ahead = direction ? -c.gap : c.gap, beginning = cell_of(c, direction, 0);
    const S *edge = rows + edge_of(c, direction, 0) * row_length(K), *unary = theta + beginning * K;
    S* out = message + beginning * width;
    FOR_LABELS(j, t) reach[j] = unary[t];
    for (int i = LANE; i < width; i += LANES) out[i] = 0;
    const auto fetch = [&](S* place) {
        unary += ahead * K;
        copy_row(place, edge, row_length(K));
        copy_numbers(place + row_length(K), unary, K);
        edge += ahead * row_length(K);
    };
    in_ring(c.count - 1, stages, buffer + padded(K), place_size(K, K), fetch, [&](const S* row) {
        const S level = row[row_size(K)];
        const bool weights = row[row_size(K) + 1] != 0;
        S top = NONE;
        FOR_LABELS(j, t) top = larger_of(top, reach[j]);
        top = largest(top);
        FOR_LABELS(j, t) buffer[t] = weights ? exponential(reach[j] - top) : reach[j] - top;
        __syncwarp();
        total += top + level;
        out += ahead * width;
        FOR_LABELS(j, t) {
            const S z = weights ? logarithm(weighted_sum(K, buffer, row + t * start, step))
                                : log_sum(K, buffer, row + t * start, step, soft) - level;
            out[t] = z;
            reach[j] = row[row_length(K) + t] + z;
        }
        if (LANE == 0) out[K] = top + level, out[K + 1] = total, out[K + 2] = top;
    });
    S top = NONE, sum = 0;
    FOR_LABELS(j, t) top = larger_of(top, reach[j]);
    top = largest(top);
    FOR_LABELS(j, t) sum += exponential(reach[j] - top);
    sum = sum_of(sum);  // by both halves of a warp
    if (LANE == 0 && direction == 0) maxima[task / 2] = total + top + (soft ? logarithm(sum) : S(0));
}

// Grid: as above. `given`: the derivative by the marginals; `falling`: that by the maxima of
// each line's chains, or by all maxima.
// carried: [2, gaps, cells, K], the derivative by the message that arrives at a cell. entropies: [2 * chains].
extern "C" __global__ void __launch_bounds__(FEW, PER > 2 || (PER > 1 && sizeof(S) == 8) ? 3 : 6)
    messages_backward(const Problem p, int stages, const S* gamma, int by_gamma, const S* falling, int by_line,
                      const S* theta, const S* rows, const S* message, const S* given, S* carried, S* pull, S* share,
                      S* entropies) {
    const int task = int(blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES);
    if (task >= 2 * number_of_chains(p)) return;
    const int K = labels_of(p), width = K + EXTRAS, direction = task % 2;
    const Chain c = chain_at(p, task / 2);
    const bool soft = *gamma > 0;
    const Index layer = direction * (p.gaps * cells(p));
    message += layer * width, carried += layer * K, pull += layer * K, share += layer * K;
    S *values = memory_of_group(K, stages, 2 * K + width, 3), *norms = values + padded(K), *sent = norms + padded(K);
    const int start = direction ? 1 : row_stride(K), step = direction ? row_stride(K) : 1;  // of the sender's labels
    const S weight = falling[by_line ? (c.axis ? p.lines[0] : 0) + c.line : 0];
    S reach[PER], arrived[PER], z[PER];
    Index to = cell_of(c, direction, c.count - 1);
    S top = NONE, sum = 0, best = NONE, entropy = 0;
    FOR_LABELS(j, t) {
        z[j] = message[to * width + t];
        reach[j] = theta[to * K + t] + z[j];
        top = larger_of(top, reach[j]);
    }
    top = largest(top);
    FOR_LABELS(j, t) {
        sum += exponential(reach[j] - top);
        if (reach[j] == top) best = larger_of(best, S(-t));  // the first one
    }
    best = -largest(best), sum = sum_of(sum);
    FOR_LABELS(j, t) {
        const S logp = reach[j] - top - logarithm(sum);
        const S probability = soft ? exponential(logp) : S(S(t) == best);
        arrived[j] = given[to * K + t] + (direction ? S(0) : probability * weight);
        if (soft && direction == 0) entropy -= probability * logp * weight;
        carried[to * K + t] = arrived[j];
    }
    S shift = message[to * width + K], sender = message[to * width + K + 2];
    const Index back = direction ? c.gap : -c.gap;
    const S* edge = rows + edge_of(c, direction, c.count - 2) * row_length(K);
    theta += to * K, given += to * K, message += to * width;
    const auto fetch = [&](S* place) {
        theta += back * K, given += back * K, message += back * width;
        S* numbers = place + row_length(K);
        copy_row(place, edge, row_length(K));
        copy_numbers(numbers, theta, K);
        copy_numbers(numbers + K, given, K);
        copy_numbers(numbers + 2 * K, message, width);
        edge += back * row_length(K);
    };
    S* ring = values + 3 * padded(K);
    in_ring(c.count - 1, stages, ring, place_size(K, 2 * K + width), fetch, [&](const S* row) {
        const Index from = to + back;
        const S *unary = row + row_length(K), *wanted = unary + K, *arriving = wanted + K;
        const bool weights = row[row_size(K) + 1] != 0;
        FOR_LABELS(j, t) reach[j] = unary[t] + arriving[t];
        if (!soft) {
            FOR_LABELS(j, t) sent[t] = reach[j];
            __syncwarp();
        }
        FOR_LABELS(j, t) {
            // The receiver's label t is reached from the sender's by the other step.
            norms[t] = soft ? z[j] + shift : best_of(K, sent, row + t * step, start);
            values[t] = weights ? arrived[j] * exponential(-z[j]) : arrived[j];
            pull[to * K + t] = values[t];
            if (!soft) share[to * K + t] = norms[t];
        }
        __syncwarp();
        FOR_LABELS(j, t) {
            S flow = 0;
            if (weights) {
                const S exponent = exponential(reach[j] - sender);
                share[from * K + t] = exponent;
                flow = exponent * weighted_sum(K, values, row + t * start, step);
            } else {
                _Pragma("unroll 1") for (int r = 0; r < K; ++r) {
                    const S logp = reach[j] + row[t * start + r * step] - norms[r];
                    const S part = soft ? values[r] * exponential(logp) : norms[r] == S(t) ? values[r] : S(0);
                    flow += part;
                    if (soft && by_gamma) entropy -= part * logp;
                }
            }
            arrived[j] = wanted[t] + flow;
            carried[from * K + t] = arrived[j];
            z[j] = arriving[t];
        }
        shift = arriving[K], sender = arriving[K + 2];
        to = from;
    });
    entropy = sum_of(entropy);
    if (LANE == 0) entropies[task] = entropy;
}

// One label of one cell of the grid, and where the cell lies among the packed rows and columns.
struct Place {
    int image, label, y, x;
    Index cell[2];
    bool inside;
};

// Grid: (a thread for each x and label, h, images). Neighbouring threads have neighbouring labels.
DEVICE inline Place place_of_thread(const Problem& p) {
    const int w = p.length[0], h = p.length[1], K = labels_of(p), index = int(blockIdx.x * blockDim.x + threadIdx.x);
    Place place;
    place.label = index % K, place.x = index / K, place.y = int(blockIdx.y), place.image = int(blockIdx.z);
    place.cell[0] = (Index(place.image) * h + place.y) * w + place.x;
    place.cell[1] = Index(p.lines[0]) * w + (Index(place.image) * w + place.x) * h + place.y;
    place.inside = place.x < w;
    return place;
}

// Where a label of a cell lies in a plain array [N, K, h, w].
DEVICE inline Index in_map(const Problem& p, const Place& place) {
    return ((Index(place.image) * labels_of(p) + place.label) * p.length[1] + place.y) * p.length[0] + place.x;
}

// Grid: as for place_of_thread. All chains get the same: of scores their share, in units of gamma.
extern "C" __global__ void __launch_bounds__(FEW)
    share_out(const Problem p, const S* gamma, int scores, double fraction, const Plain<const S> maps, S* out) {
    const Place place = place_of_thread(p);
    if (!place.inside) return;
    S value = maps.first[place.image * maps.stride[0] + place.label * maps.stride[1] + place.y * maps.stride[2] +
                         place.x * maps.stride[3]];
    if (scores) value *= S(fraction) / (*gamma > 0 ? *gamma : S(1));
    _Pragma("unroll") for (int axis = 0; axis < 2; ++axis)
        for (int g = 0; g < p.gaps; ++g) out[(g * cells(p) + place.cell[axis]) * labels_of(p) + place.label] = value;
}

// The max-marginal of a label at a cell of one gap's chains, in units of gamma.
DEVICE inline S marginal(const Problem& p, Index cell, int label, const S* theta, const S* message) {
    const int K = labels_of(p), width = K + EXTRAS;
    const S* ahead = message + cell * width;
    const S* behind = ahead + p.gaps * cells(p) * width;
    return theta[cell * K + label] + (ahead[label] + behind[label]) + (ahead[K + 1] + behind[K + 1]);
}

// Grid: as above. The marginals to `out`, their sum over a cell's chains to `total` [N, K, h, w] (in the scores' own
// units if `own_units`), and to `next` theta - step * (marginal - the cell's mean); each of the three may be null.
extern "C" __global__ void __launch_bounds__(FEW)
    marginals(const Problem p, const S* gamma, const S* theta, const S* message, S* out, S* total, int own_units,
              double step, double fraction, S* next) {
    const Place place = place_of_thread(p);
    if (!place.inside) return;
    const int K = labels_of(p);
    S sum = 0;
    _Pragma("unroll") for (int axis = 0; axis < 2; ++axis)
        for (int g = 0; g < p.gaps; ++g) {
            const Index cell = g * cells(p) + place.cell[axis];
            const S value = marginal(p, cell, place.label, theta, message);
            if (out) out[cell * K + place.label] = value;
            sum += value;
        }
    if (total) total[in_map(p, place)] = own_units && *gamma > 0 ? sum * *gamma : sum;
    if (!next) return;
    const S mean = sum * S(fraction);
    _Pragma("unroll") for (int axis = 0; axis < 2; ++axis)
        for (int g = 0; g < p.gaps; ++g) {
            const Index cell = g * cells(p) + place.cell[axis], i = cell * K + place.label;
            next[i] = theta[i] - S(step) * (marginal(p, cell, place.label, theta, message) - mean);
        }
}

// Grid: as above. out = base - step * (values - the mean over a cell's chains); base may be null.
extern "C" __global__ void __launch_bounds__(FEW)
    agree(const Problem p, const S* total, double step, double fraction, const S* base, const S* values, S* out) {
    const Place place = place_of_thread(p);
    if (!place.inside) return;
    const S mean = total[in_map(p, place)] * S(fraction);
    _Pragma("unroll") for (int axis = 0; axis < 2; ++axis)
        _Pragma("unroll 1") for (int g = 0; g < p.gaps; ++g) {
            const Index i = (g * cells(p) + place.cell[axis]) * labels_of(p) + place.label;
            out[i] = (base ? base[i] : S(0)) - S(step) * (values[i] - mean);
        }
}

// Grid: as above. The derivative by theta, carried[0] + carried[1] - given, is added to `following`, or put there if
// that is `fresh`; its sum over a cell's chains, or if `mean` their mean, goes to `total` [N, K, h, w], and to `next`,
// which may be `given`, -step * (following - mean); either may be null.
extern "C" __global__ void __launch_bounds__(FEW)
    collect(const Problem p, int fresh, const S* carried, const S* given, S* following, S* total, int mean, double step,
            double fraction, S* next) {
    const Place place = place_of_thread(p);
    if (!place.inside) return;
    const Index layer = p.gaps * cells(p) * labels_of(p);
    S sum = 0;
    _Pragma("unroll") for (int axis = 0; axis < 2; ++axis)
        _Pragma("unroll 1") for (int g = 0; g < p.gaps; ++g) {
            const Index i = (g * cells(p) + place.cell[axis]) * labels_of(p) + place.label;
            const S value = (fresh ? S(0) : following[i]) + (carried[i] + carried[layer + i] - given[i]);
            following[i] = value;
            sum += value;
        }
    const S average = sum * S(fraction);
    if (total) total[in_map(p, place)] = mean ? average : sum;
    if (!next) return;
    _Pragma("unroll") for (int axis = 0; axis < 2; ++axis)
        _Pragma("unroll 1") for (int g = 0; g < p.gaps; ++g) {
            const Index i = (g * cells(p) + place.cell[axis]) * labels_of(p) + place.label;
            next[i] = -S(step) * (following[i] - average);
        }
}

// An edge of a gap along an axis that begins, or ends, at a cell.
struct Edge {
    Index earlier, later, number;
    bool exists;
};

DEVICE inline Edge edge_at(const Problem& p, int part, bool ends, int image, int y, int x) {
    const int axis = part / p.gaps, g = part % p.gaps, gap = p.gap[g], length = p.length[axis];
    const Index line = axis ? Index(image) * p.length[0] + x : Index(image) * p.length[1] + y;
    const int place = (axis ? y : x) - (ends ? gap : 0);
    Edge edge;
    edge.exists = place >= 0 && place + gap < length;
    edge.earlier = g * cells(p) + (axis ? Index(p.lines[0]) * p.length[0] : 0) + line * length + place;
    edge.later = edge.earlier + gap;
    edge.number = first_edge(p, axis, g) + line * (length - gap) + place;
    return edge;
}

// The derivative by one score of an edge without weights, of all iterations. Arrays: [iterations, ...].
DEVICE inline S exact_derivative(int K, Index layer, const Edge& edge, int a, int b, bool soft, int iterations, S score,
                                 const S* theta, const S* message, const S* pull, const S* share) {
    const int width = K + EXTRAS;
    S sum = 0;
    _Pragma("unroll 1") for (int n = 0; n < iterations; ++n)
        _Pragma("unroll 1") for (int d = 0; d < 2; ++d) {
            const Index from = d ? edge.later : edge.earlier, to = d ? edge.earlier : edge.later;
            const int sender = d ? b : a, receiver = d ? a : b;
            const Index side = (2 * n + d) * layer;
            const S derivative = pull[(side + to) * K + receiver];
            if (!soft) {
                sum += share[(side + to) * K + receiver] == S(sender) ? derivative : S(0);
                continue;
            }
            const S* arriving = message + (side + to) * width;
            const S reach = theta[(n * layer + from) * K + sender] + message[(side + from) * width + sender];
            sum += derivative * exponential(reach + score - (arriving[receiver] + arriving[K]));
        }
    return sum;
}

// Grid: (parts * tiles of `size` cells, h, images), parts from `first` on; or factored, two ends instead. By the scores of
// the edges that begin at a cell; or factored, added up over `parts` parts from `first` on, of those that begin, or end,
// there, which later parts are added to. No two blocks write the same number.
// With weights it is a weight times a sum of products of a number for each end's label, two for each iteration; those
// of `some` iterations are in shared memory at a time: 4 * some * padded(K) numbers for each cell and part, and 4 for
// each cell, behind an Index for each cell and part. `parts` is 1 unless factored.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    scores_backward(const Problem p, const S* gamma, int iterations, int some, int factored, int size, int first, int parts,
                    const S* theta, const S* rows, const S* message, const S* pull, const S* share, const Targets targets) {
    const int K = labels_of(p), V = padded(K), quads = V / 4, vectors = 4 * some * V;
    const int tiles = (p.length[0] + size - 1) / size, item = int(blockIdx.x) / tiles, own = first + item;
    const int axis = factored ? 0 : own / p.gaps, gap = factored ? 0 : p.gap[own % p.gaps];
    const int room = parts * vectors + 4;
    const Tile tile = tile_of_block(p, size, item, tiles, p.length[0] - (axis ? 0 : gap));
    if (!tile.count || (axis && tile.y + gap >= p.length[1])) return;
    const bool ends = factored && item;
    const Index layer = p.gaps * cells(p);
    const auto edge_of_part = [&](int part, int x) {
        return edge_at(p, factored ? first + part : own, ends, tile.image, tile.y, tile.x + x);
    };
    Index* numbers = reinterpret_cast<Index*>(shared_memory);  // of edges; less than 0: there is none
    S* memory = reinterpret_cast<S*>(numbers + (tile.count * parts + 1) / 2 * 2);
    const bool by_rows = targets.out[item].stride[1] <= targets.out[item].stride[3];
    const int units = tile.count * K * quads;  // of four scores each
    for (int base = 0; base < units; base += blockDim.x) {
        const int unit = base + threadIdx.x;
        const int x = by_rows ? unit / (quads * K) : unit % tile.count, rest = by_rows ? unit : unit / tile.count;
        const int b = rest % quads * 4, a = rest / quads % K;
        S sum[4] = {0, 0, 0, 0};
        bool exact = false;
        for (int n = 0; n < iterations; n += some) {
            const int count = 2 * smaller(some, iterations - n);  // two directions
            __syncthreads();
            for (int i = threadIdx.x / LANES; i < tile.count * parts; i += blockDim.x / LANES) {
                const Edge edge = edge_of_part(i % parts, i / parts);
                if (LANE == 0) numbers[i] = edge.exists ? edge.number : -1;
                if (!edge.exists) continue;
                S* to = memory + i / parts * room + i % parts * vectors;
                Index offset = 2 * n * layer;
                for (int m = 0; m < count; ++m, offset += layer, to += 2 * V) {  // the sending end has the share
                    copy_numbers(to, (m % 2 ? pull : share) + (offset + edge.earlier) * K, K);
                    copy_numbers(to + V, (m % 2 ? share : pull) + (offset + edge.later) * K, K);
                }
            }
            commit_copies();
            wait_for_copies(0);
            __syncthreads();
            _Pragma("unroll 1") for (int part = 0; unit < units && part < parts; ++part) {
                const Index number = numbers[x * parts + part];
                if (number < 0) continue;
                const S* row = rows + number * row_length(K);
                if (row[row_size(K) + 1] == 0) {
                    exact = true;
                    continue;
                }
                S inner[4] = {0, 0, 0, 0};
                const S* pair = memory + x * room + part * vectors;
                _Pragma("unroll 2") for (int m = 0; m < count; ++m, pair += 2 * V) {
                    const Four four = *reinterpret_cast<const Four*>(pair + V + b);
                    _Pragma("unroll") for (int e = 0; e < 4; ++e) inner[e] += pair[a] * four.value[e];
                }
                row += a * row_stride(K) + b;
                _Pragma("unroll") for (int e = 0; e < 4; ++e)
                    if (b + e < K) sum[e] += row[e] * inner[e];
            }
        }
        if (unit >= units) continue;
        const Plain<S>& out = targets.out[item];
        S* to = out.first + tile.image * out.stride[0] + tile.y * out.stride[2] + (tile.x + x) * out.stride[3] +
                (a * K + b) * out.stride[1];
        _Pragma("unroll") for (int e = 0; e < 4; ++e)
            if (b + e < K) to[e * out.stride[1]] = factored && first ? to[e * out.stride[1]] + sum[e] : sum[e];
        _Pragma("unroll 1") for (int part = 0; exact && part < parts; ++part) {
            const Edge edge = edge_of_part(part, x);
            const S* row = rows + edge.number * row_length(K);
            if (!edge.exists || row[row_size(K) + 1] != 0) continue;
            _Pragma("unroll 1") for (int e = 0; e < 4 && b + e < K; ++e)
                to[e * out.stride[1]] += exact_derivative(K, layer, edge, a, b + e, *gamma > 0, iterations,
                                                          row[a * row_stride(K) + b + e], theta, message, pull, share);
        }
    }
}

// Grid: (images, iterations), each of 128 threads. The sums of `each` numbers of every chain, image by image.
extern "C" __global__ void __launch_bounds__(FEW) totals(const Problem p, int each, const S* values, S* sums) {
    static __shared__ double parts[128];
    const int image = blockIdx.x;
    const S* first = values + blockIdx.y * number_of_chains(p) * each;
    double sum = 0;
    for (int g = 0; g < p.gaps; ++g)
        for (int axis = 0; axis < 2; ++axis) {
            const Index number = Index(p.lines[axis] / p.images) * smaller(p.gap[g], p.length[axis]) * each;
            for (Index i = threadIdx.x; i < number; i += 128) sum += double(first[image * number + i]);
            first += p.images * number;
        }
    parts[threadIdx.x] = sum;
    for (int distance = 64; distance; distance /= 2) {
        __syncthreads();
        if (threadIdx.x < distance) parts[threadIdx.x] += parts[threadIdx.x + distance];
    }
    if (threadIdx.x == 0) sums[Index(blockIdx.y) * p.images + image] = S(parts[0]);
}
