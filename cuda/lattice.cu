// The permutohedral lattice on a GPU: building it, filtering with it, and mean fields. Compiled by NVRTC with SCALAR =
// float or double; common/kernels/lattice_gpu.py starts the kernels.
//
// Values are rows of `columns` times four numbers, which a thread loads and stores together. Every sum is taken in a
// fixed order: the points around a vertex are sorted, and their list is cut into windows of equal length, so that a
// vertex with many points makes nobody wait.
//
// Words and arrays:
//   corner     a vertex of the simplex that a point lies in; d + 1 of them
//   entry      a point and one of its corners, sorted by corner, then by point
//   gather     [points, corners]    the corners, numbered in the order of their codes
//   neighbours [corners, size, 2]   of each vertex along each direction; -1: not in the lattice
#ifndef EMULATED
#define UNCHANGED __grid_constant__
#else
#define UNCHANGED
#endif

typedef long long Index;

constexpr int THREADS = 128;
constexpr int WINDOW = 32;
constexpr int ROOM = 3;               // steps beyond the points' own corners that have codes
constexpr float FARTHEST = 1048576;   // 2^20
constexpr double CODES = 4.6e18;      // about 2^62
constexpr int TOO_FAR = 1, NOT_FINITE = 2;
constexpr int MOST = 2;               // lattices at a time

extern __shared__ double shared_memory[];

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }

__device__ inline int thread() { return int(blockIdx.x * blockDim.x + threadIdx.x); }

// ---- Building -----------------------------------------------------------------------------------------------------

// The simplex that a point lies in: its corner of rank 0 and the order of the point's coordinates.
template <int D>
struct Place {
    float elevated[D + 1];
    float low[D + 1];
    int rank[D + 1];
    int status = 0;

    __device__ Place(const float* point) {
        float total = 0;
#pragma unroll
        for (int j = D; j > 0; --j) {
            const float scaled = point[j - 1] * float(sqrt(2.0 / 3) * (D + 1) / sqrt(j * (j + 1.0)));
            elevated[j] = total - j * scaled;
            total += scaled;
        }
        elevated[0] = total;
        float sum = 0;
#pragma unroll
        for (int i = 0; i <= D; ++i) {
            if (!(fabsf(elevated[i]) <= FARTHEST))
                status = max(status, elevated[i] == elevated[i] ? TOO_FAR : NOT_FINITE);
            low[i] = rintf(elevated[i] * (1.0f / (D + 1))) * (D + 1);
            sum += low[i];
            rank[i] = 0;
        }
#pragma unroll
        for (int i = 0; i < D; ++i)
#pragma unroll
            for (int j = i + 1; j <= D; ++j) {
                const bool less = elevated[i] - low[i] < elevated[j] - low[j];
                rank[i] += less;
                rank[j] += !less;
            }
        // Where the rounded point does not lie on the plane of the lattice, it is brought back.
        const int off = status ? 0 : int(rintf(sum * (1.0f / (D + 1))));
#pragma unroll
        for (int i = 0; i <= D; ++i) {
            const int moved = rank[i] + off, back = (moved < 0) - (moved > D);
            rank[i] = moved + (D + 1) * back;
            low[i] += float((D + 1) * back);
        }
    }

    __device__ int key(int i) const { return status ? 0 : int(low[i]); }
};

// What each coordinate of a key counts in a code. bounds: the largest of -key and of key of each, then a status.
template <int D>
struct Code {
    Index stride[D + 1];
    Index sum = 0;
    Index whole = 1;  // codes of one group
    double size = 1;

    __device__ Code(const int* bounds) {
#pragma unroll
        for (int i = 0; i < D; ++i) {
            stride[i] = whole;
            sum += whole;
            const Index extent = Index(bounds[2 * i]) + bounds[2 * i + 1] + 2 * ROOM * (D + 1) + 1;
            size *= double(extent);
            whole = size < CODES ? whole * extent : 1;
        }
        stride[D] = 0;
    }
};

template <int D>
__device__ inline void extent_of(int count, const float* features, int* bounds) {
    const int p = min(thread(), count - 1);  // so that every thread of a warp has one
    const Place<D> place(features + Index(p) * D);
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < D; ++i) {
        const int low = __reduce_max_sync(0xffffffffu, -place.key(i));
        const int high = __reduce_max_sync(0xffffffffu, place.key(i));
        if (lane == 0) {
            atomicMax(bounds + 2 * i, low);
            atomicMax(bounds + 2 * i + 1, high);
        }
    }
    const int status = __reduce_max_sync(0xffffffffu, place.status);
    if (lane == 0 && status) atomicMax(bounds + 2 * D, status);
}

template <int D>
__device__ inline void corners_of(int count, int points, const float* features, int* bounds, Index* codes,
                                  float* weights) {
    const int p = thread();
    if (p >= count) return;
    const Code<D> code(bounds);
    if (p == 0 && !(code.size * double(count / points) < CODES)) atomicMax(bounds + 2 * D, TOO_FAR);
    const Place<D> place(features + Index(p) * D);
    Index at = code.whole * (p / points);
#pragma unroll
    for (int i = 0; i < D; ++i) at += code.stride[i] * (place.key(i) + bounds[2 * i] + ROOM * (D + 1));
    // Corner r adds r to every coordinate, less D + 1 for the r coordinates of the highest ranks.
    float before = 0;
#pragma unroll
    for (int r = 0; r <= D; ++r) {
        float offset = 0, last = 0;
        Index stride = 0;
#pragma unroll
        for (int i = 0; i <= D; ++i) {
            const float above = (place.elevated[i] - place.low[i]) * (1.0f / (D + 1));
            offset = place.rank[i] == D - r ? above : offset;
            last = place.rank[i] == 0 ? above : last;
            stride = place.rank[i] == D - r ? code.stride[i] : stride;
        }
        codes[Index(p) * (D + 1) + r] = at;
        weights[Index(p) * (D + 1) + r] = r ? offset - before : offset + (1 - last);
        before = offset;
        at += code.sum - (D + 1) * stride;
    }
}

// The number of a code among sorted ones, or -1.
__device__ inline int place_of(Index code, const Index* known, int size) {
    int low = 0, high = size;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (known[middle] < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < size && known[low] == code ? low : -1;
}

template <int D>
__device__ inline void neighbours_of(int size, const int* bounds, const Index* known, int2* neighbours) {
    const int t = thread(), direction = t / size, v = t % size;
    if (direction > D) return;
    const Code<D> code(bounds);
    Index stride = 0;
#pragma unroll
    for (int i = 0; i < D; ++i) stride = i == direction ? code.stride[i] : stride;
    const Index step = (D + 1) * stride - code.sum;
    neighbours[t] = make_int2(place_of(known[v] + step, known, size), place_of(known[v] - step, known, size));
}

#define BY_DIMENSIONS(d, function, ...)           \
    switch (d) {                                  \
        case 1: return function<1>(__VA_ARGS__);  \
        case 2: return function<2>(__VA_ARGS__);  \
        case 3: return function<3>(__VA_ARGS__);  \
        case 4: return function<4>(__VA_ARGS__);  \
        case 5: return function<5>(__VA_ARGS__);  \
        case 6: return function<6>(__VA_ARGS__);  \
    }

// Grid: a thread per point. features: [count, d]; bounds: [2 d + 1], small at first.
extern "C" __global__ void __launch_bounds__(THREADS) extent(int d, int count, const float* features, int* bounds) {
    BY_DIMENSIONS(d, extent_of, count, features, bounds)
}

// Grid: a thread per point. codes, weights: [count, d + 1]; a group has `points`.
extern "C" __global__ void __launch_bounds__(THREADS)
    corners(int d, int count, int points, const float* features, int* bounds, Index* codes, float* weights) {
    BY_DIMENSIONS(d, corners_of, count, points, features, bounds, codes, weights)
}

// Grid: a thread per entry, those included that only fill the last window. order: of the codes, [entries];
// vertex: [windows * WINDOW], as are spread and spread_weights.
extern "C" __global__ void __launch_bounds__(THREADS)
    fill(int entries, int filled, int corners, int size, const Index* ordered, const Index* order, const float* weights,
         int* vertex, int* spread, float* spread_weights, int* gather, int* starts, Index* known) {
    const int i = thread();
    if (i >= filled) return;
    if (i >= entries) {
        vertex[i] = size - 1;
        spread[i] = 0;
        spread_weights[i] = 0;
        return;
    }
    const int v = vertex[i], at = int(order[i]);
    gather[at] = v;
    spread[i] = at / corners;
    spread_weights[i] = weights[at];
    if (i == 0 || vertex[i - 1] != v) {
        starts[v] = i;
        known[v] = ordered[i];
    }
    if (i == entries - 1) starts[size] = entries;
}

// Grid: a thread per direction and vertex.
extern "C" __global__ void __launch_bounds__(THREADS)
    neighbours(int d, int size, const int* bounds, const Index* known, int2* result) {
    BY_DIMENSIONS(d, neighbours_of, size, bounds, known, result)
}

// ---- Filtering ----------------------------------------------------------------------------------------------------

struct alignas(16) Four {
    SCALAR x, y, z, w;
};

__device__ inline Four none() { return {0, 0, 0, 0}; }

__device__ inline void add(Four& sum, SCALAR factor, const Four& value) {
    sum.x += factor * value.x;
    sum.y += factor * value.y;
    sum.z += factor * value.z;
    sum.w += factor * value.w;
}

// A lattice, or one that serves several images of the same points (`copies`), one after the other in all values.
struct Lattice {
    int corners;
    int points;
    int size;
    int entries;
    int windows;
    int copies;
    const int* gather;
    const float* weights;  // [points, corners]
    const int* vertex;     // of an entry
    const int* spread;     // its point
    const float* spread_weights;
    const int* starts;     // first entry of a vertex, [size + 1]
    const int2* neighbours;
    const float* after;    // what a point's result is multiplied by; may be null
    Four* values;          // [copies, size, columns]
    Four* other;
    Four* heads;           // [copies, windows, columns]
};

struct Lattices {
    int count;
    int columns;
    int rows;  // points of all images
    Lattice lattice[MOST];
};

// Grid: a thread per window and column of each lattice (y). Sums the entries of a window vertex by vertex. What
// belongs to a vertex that began in an earlier window is put aside.
extern "C" __global__ void __launch_bounds__(THREADS) splat(const UNCHANGED Lattices all, const Four* values) {
    const Lattice& l = all.lattice[blockIdx.y];
    const int t = thread(), column = t % all.columns, number = t / all.columns;
    const int copy = number / l.windows, window = number % l.windows;
    if (copy >= l.copies) return;
    const Four* const from = values + Index(copy) * l.points * all.columns + column;
    Four* const to = l.values + Index(copy) * l.size * all.columns + column;
    Four* target = l.heads + Index(number) * all.columns + column;
    const int begin = window * WINDOW, end = min(begin + WINDOW, l.entries);
    int current = l.vertex[begin];
    if (begin == 0 || l.vertex[begin - 1] != current) target = to + Index(current) * all.columns;
    Four sum = none();
    for (int i = begin; i < end; i += 4) {
        const int4 vertex = *reinterpret_cast<const int4*>(l.vertex + i);
        const int4 point = *reinterpret_cast<const int4*>(l.spread + i);
        const float4 weight = *reinterpret_cast<const float4*>(l.spread_weights + i);
        const int vertices[] = {vertex.x, vertex.y, vertex.z, vertex.w};
        const float weights[] = {weight.x, weight.y, weight.z, weight.w};
        const Four loaded[] = {from[Index(point.x) * all.columns], from[Index(point.y) * all.columns],
                               from[Index(point.z) * all.columns], from[Index(point.w) * all.columns]};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (i + j >= end) break;
            if (vertices[j] != current) {
                *target = sum;
                sum = none();
                current = vertices[j];
                target = to + Index(current) * all.columns;
            }
            add(sum, weights[j], loaded[j]);
        }
    }
    *target = sum;
}

// Grid: as `splat`. Adds what was put aside, by the thread of the window after that in which a vertex began.
extern "C" __global__ void __launch_bounds__(THREADS) carry(const UNCHANGED Lattices all) {
    const Lattice& l = all.lattice[blockIdx.y];
    const int t = thread(), column = t % all.columns, number = t / all.columns;
    const int copy = number / l.windows, window = number % l.windows;
    if (copy >= l.copies || window == 0) return;
    const int v = l.vertex[window * WINDOW], start = l.starts[v];
    if (start >= window * WINDOW || start < (window - 1) * WINDOW) return;
    const int more = (l.starts[v + 1] - 1) / WINDOW - window;
    const Four* const heads = l.heads + Index(number) * all.columns + column;
    Four* const to = l.values + (Index(copy) * l.size + v) * all.columns + column;
    Four sum = *to;
#pragma unroll 4
    for (int i = 0; i <= more; ++i) add(sum, 1, heads[Index(i) * all.columns]);
    *to = sum;
}

// Grid: a thread per vertex and column of each lattice (y). Blurs along one direction, of which this is the `turn`-th.
extern "C" __global__ void __launch_bounds__(THREADS) blur(const UNCHANGED Lattices all, int turn, int reverse) {
    const Lattice& l = all.lattice[blockIdx.y];
    const int t = thread(), column = t % all.columns, number = t / all.columns;
    const int copy = number / l.size, v = number % l.size;
    if (copy >= l.copies || turn >= l.corners) return;
    const int direction = reverse ? l.corners - 1 - turn : turn;
    const int2 beside = l.neighbours[Index(direction) * l.size + v];
    const Index first = Index(copy) * l.size * all.columns + column;
    const Four* const from = (turn % 2 ? l.other : l.values) + first;
    const Four one = beside.x < 0 ? none() : from[Index(beside.x) * all.columns];
    const Four two = beside.y < 0 ? none() : from[Index(beside.y) * all.columns];
    Four sum = from[Index(v) * all.columns];
    sum.x += SCALAR(0.5) * (one.x + two.x);
    sum.y += SCALAR(0.5) * (one.y + two.y);
    sum.z += SCALAR(0.5) * (one.z + two.z);
    sum.w += SCALAR(0.5) * (one.w + two.w);
    (turn % 2 ? l.values : l.other)[first + Index(v) * all.columns] = sum;
}

// What a lattice has for a point after the blur.
__device__ inline Four message(const Lattices& all, int index, int row, int column) {
    const Lattice& l = all.lattice[index];
    const int copy = l.copies > 1 ? row / l.points : 0, point = row - copy * l.points;
    const Four* const from = (l.corners % 2 ? l.other : l.values) + Index(copy) * l.size * all.columns + column;
    const Index first = Index(point) * l.corners;
    Four sum = none();
#pragma unroll 3
    for (int c = 0; c < l.corners; ++c) add(sum, l.weights[first + c], from[Index(l.gather[first + c]) * all.columns]);
    // What the blur adds up to, in the reference's approximation.
    const SCALAR constant = SCALAR(1) / (SCALAR(1) + SCALAR(2) / SCALAR(1 << l.corners));
    const SCALAR factor = l.after ? constant * l.after[point] : constant;
    return {factor * sum.x, factor * sum.y, factor * sum.z, factor * sum.w};
}

// Grid: a thread per point and column of each lattice (y). result: [lattices, rows, columns].
extern "C" __global__ void __launch_bounds__(THREADS) slice(const UNCHANGED Lattices all, Four* result) {
    const int t = thread(), column = t % all.columns, row = t / all.columns;
    if (row < all.rows) result[(Index(blockIdx.y) * all.rows + row) * all.columns + column] =
        message(all, blockIdx.y, row, column);
}

// ---- Mean fields --------------------------------------------------------------------------------------------------

// Weights of messages: numbers, or matrices [lattices, senders, columns] in rows of four times `columns`.
struct Weights {
    SCALAR number[MOST];
    const Four* matrix;
};

// A point of `lanes` threads of a warp, as many as it has columns, or 32.
struct Group {
    int lanes;
    int lane;
    int row;
    bool inside;
    SCALAR* box;  // its messages, where matrices mix labels

    __device__ Group(const Lattices& all, int lanes)
        : lanes(lanes), lane(threadIdx.x % lanes), row(blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes),
          inside(row < all.rows),
          box(reinterpret_cast<SCALAR*>(shared_memory) + threadIdx.x / lanes * all.count * all.columns * 4) {}

    __device__ int end(const Lattices& all) const { return inside ? all.columns : 0; }

    // Over the group, always in the same order.
    __device__ SCALAR sum(SCALAR value) const {
        for (int distance = lanes / 2; distance; distance /= 2)
            value += __shfl_xor_sync(0xffffffffu, value, distance);
        return value;
    }
    __device__ SCALAR largest(SCALAR value) const {
        for (int distance = lanes / 2; distance; distance /= 2) {
            const SCALAR other = __shfl_xor_sync(0xffffffffu, value, distance);
            value = other > value ? other : value;
        }
        return value;
    }
};

// Puts all messages of a point into its box, and into `messages` [lattices, rows, columns] unless that is null.
__device__ inline void collect(const Lattices& all, const Group& group, Four* messages) {
    for (int index = 0; index < all.count; ++index)
        for (int c = group.lane; c < group.end(all); c += group.lanes) {
            const Four value = message(all, index, group.row, c);
            SCALAR* const to = group.box + (index * all.columns + c) * 4;
            to[0] = value.x, to[1] = value.y, to[2] = value.z, to[3] = value.w;
            if (messages) messages[(Index(index) * all.rows + group.row) * all.columns + c] = value;
        }
    __syncwarp();
}

// Adds the weighted messages of a point.
__device__ inline void combine(const Lattices& all, const Group& group, const Weights& weights, int column, Four& sum) {
    if (!weights.matrix) {
        for (int index = 0; index < all.count; ++index)
            add(sum, weights.number[index], message(all, index, group.row, column));
        return;
    }
    const int senders = all.count * all.columns * 4;
#pragma unroll 4
    for (int j = 0; j < senders; ++j) add(sum, group.box[j], weights.matrix[Index(j) * all.columns + column]);
}

// Grid: `lanes` threads per point. From unary scores and, if `informed`, messages to scores, or their softmax.
// Shared memory: THREADS / lanes boxes, if there are matrices. unary, result: [rows, columns]; where there is no
// label, unary is minus infinity.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    update(const UNCHANGED Lattices all, int lanes, const UNCHANGED Weights weights, int informed, int marginals,
           const Four* unary, Four* result) {
    const Group group(all, lanes);
    const Index first = Index(group.row) * all.columns;
    if (informed && weights.matrix) collect(all, group, nullptr);
    Four own = none();  // the first column of a thread; others are in memory meanwhile
    SCALAR top = -1 / SCALAR(0);
    for (int c = group.lane; c < group.end(all); c += lanes) {
        Four score = unary[first + c];
        if (informed) combine(all, group, weights, c, score);
        const SCALAR high = max(max(score.x, score.y), max(score.z, score.w));
        top = high > top ? high : top;
        if (c == group.lane) own = score;
        if (c != group.lane || !marginals) result[first + c] = score;
    }
    if (!marginals) return;
    top = group.largest(top);
    SCALAR total = 0;
    for (int c = group.lane; c < group.end(all); c += lanes) {
        Four value = c == group.lane ? own : result[first + c];
        value = {exponential(value.x - top), exponential(value.y - top), exponential(value.z - top),
                 exponential(value.w - top)};
        total += (value.x + value.y) + (value.z + value.w);
        if (c == group.lane)
            own = value;
        else
            result[first + c] = value;
    }
    const SCALAR share = 1 / group.sum(total);
    for (int c = group.lane; c < group.end(all); c += lanes) {
        const Four value = c == group.lane ? own : result[first + c];
        result[first + c] = {share * value.x, share * value.y, share * value.z, share * value.w};
    }
}

// Grid and shared memory: as `update`. From the messages of derivatives by scores to the derivatives by the scores
// before the update, which are added to `by_unary` too. messages: [lattices, rows, columns], or null.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    update_backward(const UNCHANGED Lattices all, int lanes, const UNCHANGED Weights weights, const Four* marginals,
                    Four* by_unary, Four* result, Four* messages) {
    const Group group(all, lanes);
    const Index first = Index(group.row) * all.columns;
    if (weights.matrix) collect(all, group, messages);
    Four own = none();
    SCALAR total = 0;
    for (int c = group.lane; c < group.end(all); c += lanes) {
        Four by = none();
        combine(all, group, weights, c, by);
        const Four share = marginals[first + c];
        total += (share.x * by.x + share.y * by.y) + (share.z * by.z + share.w * by.w);
        if (c == group.lane)
            own = by;
        else
            result[first + c] = by;
    }
    total = group.sum(total);
    for (int c = group.lane; c < group.end(all); c += lanes) {
        const Four by = c == group.lane ? own : result[first + c];
        const Four share = marginals[first + c];
        const Four change = {share.x * (by.x - total), share.y * (by.y - total), share.z * (by.z - total),
                             share.w * (by.w - total)};
        add(by_unary[first + c], 1, change);
        result[first + c] = change;
    }
}
