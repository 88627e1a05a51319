// Binary cross-entropy and sigmoids summed over cells of pixels, in one pass over logits, and their derivative in
// another, on a GPU; sigmoids.h says how they lie. Compiled by NVRTC with SCALAR = float or double, which is computed
// in; logits are of that type, or of half precision. A block has `cells` cells of one row.
#define DEVICE __device__

#include "sigmoids.h"

constexpr int WARP = 32, THREADS = 128;  // common/kernels/sigmoids.py has these too
constexpr int NO_CLASS = -1, OUTSIDE = -2;

extern __shared__ double shared_memory[];  // two sums of each warp, then the labels of the pixels of each cell

// Numbers of half precision, by their bits.
struct Bfloat {
    unsigned short bits;
};
struct Half {
    unsigned short bits;
};

DEVICE inline float number(float x) { return x; }
DEVICE inline double number(double x) { return x; }
DEVICE inline float number(Bfloat x) { return __uint_as_float(unsigned(x.bits) << 16); }
DEVICE inline float number(Half x) {
    const unsigned sign = unsigned(x.bits & 0x8000) << 16, rest = unsigned(x.bits & 0x7fff) << 13;
    if (rest >= 0x0f800000u) return __uint_as_float(sign | rest | 0x7f800000u);  // infinite or no number
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest) * 5.192296858534828e33f));  // 2^112
}

DEVICE inline void put(float* to, float x) { *to = x; }
DEVICE inline void put(double* to, double x) { *to = x; }
DEVICE inline void put(Bfloat* to, float x) {
    const unsigned bits = __float_as_uint(x);
    to->bits = x == x ? (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16) : (unsigned short)0x7fff;
}
DEVICE inline void put(Half* to, float x) {
    const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    unsigned result;
    if (rest > 0x7f800000u)
        result = 0x7fff;
    else if (rest >= 0x477ff000u)  // rounds to 65536
        result = 0x7c00;
    else if (rest < 0x38800000u)  // below the smallest normal number: adding 1/2 aligns its digits
        result = __float_as_uint(__uint_as_float(rest) + 0.5f) - 0x3f000000u;
    else
        result = (rest - 0x38000000u + 0xfff + (rest >> 13 & 1)) >> 13;
    to->bits = (unsigned short)(sign | result);
}
DEVICE inline void put(Bfloat* to, double x) { put(to, float(x)); }
DEVICE inline void put(Half* to, double x) { put(to, float(x)); }

DEVICE inline float decay(float x) { return expf(-fabsf(x)); }
DEVICE inline double decay(double x) { return exp(-fabs(x)); }
DEVICE inline float log_of_one_plus(float x) { return log1pf(x); }
DEVICE inline double log_of_one_plus(double x) { return log1p(x); }

DEVICE inline double warp_sum(double value) {
    for (int distance = WARP / 2; distance; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

// Where the block's cells are.
struct Tile {
    int image, row, column;  // the image, the row of cells, and the first cell
    int y, x;                // the first pixel, which may be outside
    int* labels;             // [side * side, cells]
};

// Fills the labels of the block's cells: a class, NO_CLASS or OUTSIDE.
DEVICE inline Tile tile_of(const Pixels& p, int cells, const Index* labels) {
    const int rows = cells_along(p, p.height), parts = (cells_along(p, p.width) + cells - 1) / cells;
    Tile t;
    t.image = int(blockIdx.x / (rows * parts));
    t.row = int(blockIdx.x / parts % rows);
    t.column = int(blockIdx.x % parts) * cells;
    t.y = t.row * p.side - p.padding;
    t.x = t.column * p.side - p.padding;
    t.labels = reinterpret_cast<int*>(shared_memory + 2 * (THREADS / WARP));
    const int width = cells * p.side;
    for (int e = threadIdx.x; e < p.side * width; e += THREADS) {
        const int row = e / width, column = e % width, y = t.y + row, x = t.x + column;
        const bool inside = y >= 0 && y < p.height && x >= 0 && x < p.width;
        const int label =
            inside ? class_of(p, labels[t.image * pixels_of(p) + y * p.width + x]) : OUTSIDE;
        t.labels[(row * p.side + column % p.side) * cells + column / p.side] = label;
    }
    __syncthreads();
    return t;
}

// A cell of the block and a class; those that follow each other lie together in memory.
struct Pair {
    int cell, label;
};

DEVICE inline Pair pair_of(const Pixels& p, int cells, int number) {
    if (p.together) return {number / p.classes, number % p.classes};
    return {number % cells, number / cells};
}

// The place of a pair among the pooled maps, or -1.
DEVICE inline Index pooled_at(const Pixels& p, const Tile& t, Pair pair) {
    const int column = t.column + pair.cell;
    if (t.row >= p.rows || column >= p.columns) return -1;
    return ((Index(t.image) * p.classes + pair.label) * p.rows + t.row) * p.columns + column;
}

// What the pixels of a cell are to a class.
struct Sums {
    SCALAR sigmoids, truth, positive, product;  // the product of 1 + exp(-|x|), less 1
    int inside, valid;
};

template <class T>
DEVICE inline Sums sums_of(const Pixels& p, const Tile& t, int cells, Pair pair, const T* logits) {
    Sums s = {0, 0, 0, 0, 0, 0};
    const int* labels = t.labels + pair.cell;
    const int step = int(pixel_step(p));
    for (int row = 0; row < p.side; ++row) {
        const T* from = logits + pair.label * int(class_step(p)) +
                        ((t.y + row) * p.width + t.x + pair.cell * p.side) * step;
#pragma unroll 4
        for (int column = 0; column < p.side; ++column) {
            const int label = labels[(row * p.side + column) * cells];
            s.inside += label != OUTSIDE;
            if (label < 0) continue;
            const SCALAR x = number(from[column * step]), factor = decay(x), part = 1 / (1 + factor);
            const bool true_class = label == pair.label;
            s.sigmoids += x < 0 ? factor * part : part;
            s.truth += true_class;
            s.positive += (x > 0 ? x : SCALAR(0)) - (true_class ? x : SCALAR(0));
            s.product += s.product * factor + factor;
            ++s.valid;
        }
    }
    return s;
}

// The sums of two numbers over a block's threads, in threads 0 and 1.
DEVICE inline double block_sum(double first, double second) {
    first = warp_sum(first);
    second = warp_sum(second);
    if (threadIdx.x % WARP == 0) {
        shared_memory[threadIdx.x / WARP * 2] = first;
        shared_memory[threadIdx.x / WARP * 2 + 1] = second;
    }
    __syncthreads();
    double sum = 0;
    for (int warp = 0; warp < THREADS / WARP; ++warp) sum += shared_memory[warp * 2 + threadIdx.x % 2];
    return sum;
}

// parts: of each block, the cross-entropy and the pixels that have a class.
template <class T>
DEVICE inline void forward(const Pixels& p, int cells, const T* logits, const Index* labels, double floor,
                           SCALAR* predicted, SCALAR* truth, double* parts) {
    const Tile t = tile_of(p, cells, labels);
    logits += t.image * p.classes * pixels_of(p);
    double total = 0;
    int pixels = 0;
    for (int e = threadIdx.x; e < cells * p.classes; e += THREADS) {
        const Pair pair = pair_of(p, cells, e);
        const Sums s = sums_of(p, t, cells, pair, logits);
        total += double(s.positive) + double(log_of_one_plus(s.product));
        if (pair.label == 0) pixels += s.valid;
        const Index at = pooled_at(p, t, pair);
        if (!predicted || at < 0) continue;
        predicted[at] = s.sigmoids + SCALAR(floor * s.inside);
        truth[at] = s.truth;
    }
    const double sum = block_sum(total, pixels);
    if (threadIdx.x < 2) parts[Index(blockIdx.x) * 2 + threadIdx.x] = sum;
}

// The derivative at a pixel, by the cross-entropy and by the sigmoid.
template <class T>
DEVICE inline void put_derivative(const T* from, T* to, bool valid, bool true_class, SCALAR by_total,
                                  SCALAR by_sigmoid) {
    const SCALAR x = valid ? number(*from) : SCALAR(0), factor = decay(x), part = 1 / (1 + factor);
    const SCALAR sigmoid = x < 0 ? factor * part : part;
    const SCALAR value = by_total * (sigmoid - (true_class ? SCALAR(1) : SCALAR(0))) + by_sigmoid * factor * part * part;
    put(to, valid ? value : SCALAR(0));
}

// A thread per cell and class where the classes of a pixel lie together, else a thread per pixel.
template <class T>
DEVICE inline void backward(const Pixels& p, int cells, const T* logits, const Index* labels, const SCALAR* by_value,
                            const double* valid, const SCALAR* by_predicted, T* out) {
    const Tile t = tile_of(p, cells, labels);
    logits += t.image * p.classes * pixels_of(p);
    out += t.image * p.classes * pixels_of(p);
    const SCALAR by = SCALAR(double(*by_value) / (*valid + 1));
    const int width = cells * p.side, count = p.together ? cells * p.classes : p.side * width;
    for (int e = threadIdx.x; e < count; e += THREADS) {
        if (p.together) {
            const Pair pair = pair_of(p, cells, e);
            const Index pooled = by_predicted ? pooled_at(p, t, pair) : -1;
            const SCALAR by_sigmoid = pooled < 0 ? SCALAR(0) : by_predicted[pooled];
            for (int row = 0; row < p.side; ++row) {
                const int pixel = (t.y + row) * p.width + t.x + pair.cell * p.side;
#pragma unroll 4
                for (int column = 0; column < p.side; ++column) {
                    const int label = t.labels[(row * p.side + column) * cells + pair.cell];
                    if (label == OUTSIDE) continue;
                    const int at = (pixel + column) * p.classes + pair.label;
                    put_derivative(logits + at, out + at, label >= 0, label == pair.label, by, by_sigmoid);
                }
            }
            continue;
        }
        const int row = e / width, cell = e % width / p.side, column = e % width % p.side;
        const int label = t.labels[(row * p.side + column) * cells + cell];
        if (label == OUTSIDE) continue;
        const int at = (t.y + row) * p.width + t.x + e % width, step = int(pixels_of(p));
        const Index pooled = by_predicted ? pooled_at(p, t, {cell, 0}) : -1;
#pragma unroll 4
        for (int k = 0; k < p.classes; ++k) {
            const SCALAR by_sigmoid = pooled < 0 ? SCALAR(0) : by_predicted[pooled + k * p.rows * p.columns];
            put_derivative(logits + at + k * step, out + at + k * step, label >= 0, label == k, by, by_sigmoid);
        }
    }
}

#define KERNELS(name, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS, 8)                                                           \
        forward_##name(const Pixels p, int cells, const T* logits, const Index* labels, double floor,                \
                       SCALAR* predicted, SCALAR* truth, double* parts) {                                            \
        forward(p, cells, logits, labels, floor, predicted, truth, parts);                                           \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, 8)                                                           \
        backward_##name(const Pixels p, int cells, const T* logits, const Index* labels, const SCALAR* by_value,     \
                        const double* valid, const SCALAR* by_predicted, T* out) {                                   \
        backward(p, cells, logits, labels, by_value, valid, by_predicted, out);                                      \
    }

KERNELS(full, SCALAR)
KERNELS(half, Half)
KERNELS(bfloat, Bfloat)

// value: the cross-entropy over (valid + 1); valid: the pixels that have a class. Grid: one block.
extern "C" __global__ void __launch_bounds__(THREADS)
    finish(int blocks, const double* parts, SCALAR* value, double* valid) {
    double total = 0, pixels = 0;
    for (int i = threadIdx.x; i < blocks; i += THREADS) {
        total += parts[2 * Index(i)];
        pixels += parts[2 * Index(i) + 1];
    }
    const double sum = block_sum(total, pixels);
    const double count = __shfl_xor_sync(0xffffffffu, sum, 1);
    if (threadIdx.x > 0) return;
    *value = SCALAR(sum / (count + 1));
    *valid = count;
}
